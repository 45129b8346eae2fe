"""Former symbols of mouse regulators, as matrices from before their renaming hold them (MGI: nomenclature history of each gene).

HGNC's list of former names is of human genes; what is named alike in both species needs no entry here.
"""

FORMER = {
    "SFPI1": "SPI1", "IPF1": "PDX1", "TITF1": "NKX2-1", "EVI1": "MECOM", "HOD": "HOPX", "CATNB": "CTNNB1", "MIZF": "HINFP",
    "STRA13": "BHLHE40", "BHLHB2": "BHLHE40", "BHLHB3": "BHLHE41", "BHLHB4": "BHLHE23", "BHLHB5": "BHLHE22", "BHLHB8": "BHLHA15",
    "TCF2": "HNF1B", "TCFE2A": "TCF3", "TCFE3": "TFE3", "TCFEB": "TFEB", "TCFEC": "TFEC", "TCFCP2": "TFCP2", "TCFCP2L1": "TFCP2L1",
    "TCFAP2A": "TFAP2A", "TCFAP2B": "TFAP2B", "TCFAP2C": "TFAP2C", "TCFAP2D": "TFAP2D", "TCFAP2E": "TFAP2E", "TCFAP4": "TFAP4",
    "ZFPN1A1": "IKZF1", "ZFPN1A2": "IKZF2", "ZFPN1A3": "IKZF3", "ZFPN1A4": "IKZF4", "CUTL1": "CUX1", "CUTL2": "CUX2",
    "IDB1": "ID1", "IDB2": "ID2", "IDB3": "ID3", "IDB4": "ID4", "MYCL1": "MYCL", "LMYC1": "MYCL", "NMYC1": "MYCN",
    "MADH1": "SMAD1", "MADH2": "SMAD2", "MADH3": "SMAD3", "MADH4": "SMAD4", "MADH5": "SMAD5", "MADH6": "SMAD6", "MADH7": "SMAD7",
    "MADH9": "SMAD9", "ZFP238": "ZBTB18", "ZFP191": "ZFP24", "ZFP145": "ZBTB16", "ZFP288": "ZBTB20", "ZFP278": "PATZ1", "ZFP67": "ZBTB7B",
    "TZFP": "ZBTB32", "MLL1": "KMT2A", "MLL3": "KMT2C", "MLL5": "KMT2E", "WBP7": "KMT2B", "WHSC1": "NSD2", "MLR2": "LCOR",
    "JMJD1A": "KDM3A", "JMJD2A": "KDM4A", "JMJD3": "KDM6B", "UTX": "KDM6A", "JARID1A": "KDM5A", "JARID1B": "KDM5B", "JARID1C": "KDM5C",
}  # fmt: skip
