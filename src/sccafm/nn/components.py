"""Principal components of a whole corpus, on which any cell can be read: the part of a cell's vector that is not learned by contrasts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST = 1e-6


class Components(nn.Module):
    """Where a cell stands on the leading axes along which the cells of the training studies differ.

    For log-expression x of the genes that are read (other genes are left out), with usual levels l of the cell's species, weights w
    (the standard deviation of a gene within studies, to the power -0.5), the mean m of d over studies, and axes V, each divided by the
    square root of the standard deviation along it::

        d = unit(w (x - l))        e = unit(V' (d - m))

    It depends on the cell and on which genes are read, whatever study the cell comes from. `unit` divides by the Euclidean length, so
    that the depth of a cell counts less than its direction. `sccafm.train.components` fits the tables.

    Parameters
    ----------
    size
        K axes.
    vocab_size
        V rows of the vocabulary.
    """

    level: Tensor  # 2 V, usual log-expression in human and mouse
    weight: Tensor  # V, 0 for genes of which the corpus says nothing
    mean: Tensor  # V, of d over the corpus
    loadings: Tensor  # V K

    def __init__(self, size: int, vocab_size: int):
        super().__init__()
        self.register_buffer("level", torch.zeros(2, vocab_size))
        self.register_buffer("weight", torch.zeros(vocab_size))
        self.register_buffer("mean", torch.zeros(vocab_size))
        # Thousands of rows: half the file.
        self.register_buffer("loadings", torch.zeros(vocab_size, size, dtype=torch.float16))

    def forward(self, expression: Tensor, gene_ids: Tensor, share: Tensor, is_padding: Tensor | None) -> Tensor:
        """Cells on the axes.

        Parameters
        ----------
        expression, gene_ids
            C G.
        share
            C 2, how much of a cell is human and mouse: each one half where it is not known.
        is_padding
            C G bool, or None.

        Returns
        -------
        C K, of length 1.
        """
        departure = self.weight[gene_ids] * (expression - mixed(self.level, gene_ids, share))  # C G
        mean = self.mean[gene_ids]
        if is_padding is not None:
            departure, mean = departure.masked_fill(is_padding, 0.0), mean.masked_fill(is_padding, 0.0)
        departure = F.normalize(departure, dim=1, eps=LEAST) - mean
        return F.normalize(self._project(departure, gene_ids), dim=1, eps=LEAST)

    def _project(self, departure: Tensor, gene_ids: Tensor) -> Tensor:
        if bool((gene_ids == gene_ids[:1]).all()):
            return departure @ self.loadings[gene_ids[0]].to(departure.dtype)
        return torch.einsum("cg,cgk->ck", departure, self.loadings[gene_ids].to(departure.dtype))


def mixed(level: Tensor, gene_ids: Tensor, share: Tensor) -> Tensor:
    """Usual level of each gene, between those of the two species by how much of each a cell is: 2 V, C G, C 2 -> C G."""
    human, mouse = level[:, gene_ids]  # each C G
    return share[:, :1] * human + share[:, 1:] * mouse
