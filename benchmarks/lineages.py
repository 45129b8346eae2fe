"""Fourteen lineages and their master regulators, as textbooks and knock-outs know them; chosen before anything was measured."""

LINEAGES = {
    # file: {lineage: (groups of cell_type that it is, masters)}
    "kang18_ifnb_2800": {
        "B cell": (["B"], ["PAX5", "EBF1", "SPIB"]),
        "monocyte": (["CD14 Mono"], ["SPI1", "CEBPB", "CEBPD", "MAFB", "KLF4"]),
        "NK cell": (["NK"], ["EOMES", "TBX21"]),
        "naive T cell": (["CD4 Naive T"], ["TCF7", "LEF1", "BACH2"]),
        "plasmacytoid dendritic cell": (["pDC"], ["TCF4", "SPIB", "IRF8"]),
        "megakaryocyte": (["Mk"], ["GATA1", "GFI1B", "NFE2", "FLI1", "MEIS1"]),
    },
    "paul15_myeloid": {
        "erythroid": (["2Ery", "3Ery"], ["Gata1", "Klf1", "Tal1", "Nfe2"]),
        "neutrophil": (["16Neu"], ["Cebpe", "Gfi1", "Cebpa"]),
        "basophil": (["13Baso"], ["Gata2", "Cebpa", "Runx1"]),
        "monocyte (marrow)": (["15Mo"], ["Irf8", "Klf4", "Spi1"]),
    },
    "pancreas_baron_mouse": {
        "beta cell": (["beta"], ["Pdx1", "Mafa", "Nkx6-1", "Nkx2-2"]),
        "alpha cell": (["alpha"], ["Arx", "Mafb", "Irx2"]),
        "delta cell": (["delta"], ["Hhex", "Pdx1"]),
        "ductal cell": (["ductal"], ["Sox9", "Hnf1b", "Onecut2", "Hes1"]),
    },
}
STIMULATED = ("STAT1", "STAT2", "IRF7", "IRF9")  # the machinery of the answer to interferon
