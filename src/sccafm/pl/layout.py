"""Where the boxes of a network picture stand: near their neighbours, and never over each other."""

import networkx as nx
import numpy as np

GAP = 0.14  # inches between boxes, so that an arrow head can be seen
CLEARINGS = 60  # rounds in which boxes move off the lines between others
SEED = 0


def boxes(graph: nx.DiGraph, size: dict[str, tuple[float, float]], width: float) -> dict[str, np.ndarray]:
    """Centers in inches of boxes of given sizes.

    Each connected part is laid out by spring forces from a Kamada-Kawai start, pushed apart until no two boxes overlap,
    and the parts are packed into rows of about `width`.
    """
    parts = []
    for nodes in sorted(nx.weakly_connected_components(graph), key=lambda n: (-len(n), min(n))):
        part = nx.Graph(graph.subgraph(sorted(nodes)))
        names = sorted(part)
        parts.append((names, place(part, names, np.array([size[n] for n in names]), width)))
    return packed(parts, size, width)


def place(part: nx.Graph, names: list[str], size: np.ndarray, width: float) -> np.ndarray:
    """N 2, inches: one connected part, wider than high as pages are, and where that can be no wider than `width`."""
    if len(names) == 1:
        return np.zeros((1, 2))
    start = nx.kamada_kawai_layout(part, weight=None)
    spread = 0.5 * np.sqrt(len(names)) * np.array([1.35, 1.0]) + size.mean(0)
    at = np.array([start[name] for name in names]) * spread
    order = {name: i for i, name in enumerate(names)}
    ends = np.array([(order[a], order[b]) for a, b in part.edges])
    at = at * min(1.0, (width - size[:, 0].max()) / np.ptp(at[:, 0]))
    at = separated(at - at.mean(0), size)
    for _ in range(CLEARINGS):
        at = separated(cleared(at, size, ends), size)
    return at


def cleared(at: np.ndarray, size: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Boxes that lie on the line between two others move off it, by a half of what is needed: N 2, N 2, E 2 -> N 2."""
    start, way = at[ends[:, 0]], at[ends[:, 1]] - at[ends[:, 0]]  # E 2
    length = np.maximum(np.linalg.norm(way, axis=1), 1e-9)
    unit = way / length[:, None]
    normal = np.stack([-unit[:, 1], unit[:, 0]], -1)
    offset = at[:, None] - start[None]  # N E 2
    along, across = (offset * unit).sum(-1), (offset * normal).sum(-1)
    need = (np.abs(normal)[None] * size[:, None] / 2).sum(-1) + GAP / 2  # N E
    is_over = (np.abs(across) < need) & (along > 0) & (along < length)
    is_over[ends.T, np.arange(len(ends))] = False  # its own ends
    push = np.where(is_over, (need - np.abs(across)) * np.where(across >= 0, 1, -1), 0)
    return at + 0.5 * np.clip((push[..., None] * normal).sum(1), -0.4, 0.4)


def separated(at: np.ndarray, size: np.ndarray, rounds: int = 600) -> np.ndarray:
    """Push boxes apart along the shorter way until none overlaps: N 2, N 2 -> N 2.

    Raises
    ------
    RuntimeError
        Boxes still overlap; cannot happen but for a mistake here.
    """
    at = at + np.random.default_rng(SEED).normal(0, 1e-3, at.shape)  # boxes at one place have no way apart
    need = (size[:, None] + size[None]) / 2 + GAP  # N N 2
    upper = np.triu(np.ones(need.shape[:2], bool), 1)
    for step in range(rounds * 10):
        way = at[:, None] - at[None]
        excess = need - np.abs(way)
        rows, columns = np.nonzero(upper & (excess > 1e-6).all(-1))
        if not len(rows):
            return at
        move = np.zeros_like(at)
        axis = excess[rows, columns].argmin(1)
        shift = 0.5 * excess[rows, columns, axis] * np.where(way[rows, columns, axis] >= 0, 1, -1)
        np.add.at(move, (rows, axis), shift)
        np.add.at(move, (columns, axis), -shift)
        at = at + np.clip(move, -0.3, 0.3) * (0.9 if step < rounds else 0.5)
        if step % rounds == rounds - 1:
            at = at * 1.1  # caught in a crowd: more room
    raise RuntimeError("boxes could not be moved apart")


def packed(parts: list, size: dict[str, tuple[float, float]], width: float) -> dict[str, np.ndarray]:
    """Parts side by side in rows, the largest first."""
    extents = []
    for names, at in parts:
        half = np.array([size[n] for n in names]) / 2
        extents.append((np.min(at - half, 0), np.max(at + half, 0)))
    width = max(width, *(high[0] - low[0] for low, high in extents))
    found, x, y, row = {}, 0.0, 0.0, 0.0
    for (names, at), (low, high) in zip(parts, extents, strict=True):
        wide, tall = high - low
        if x > 0 and x + wide > width:
            x, y, row = 0.0, y - row - 3 * GAP, 0.0
        shifted = at - [low[0], high[1]] + [x, y]
        found.update(zip(names, shifted, strict=True))
        x, row = x + wide + 3 * GAP, max(row, tall)
    return found
