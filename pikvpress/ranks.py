"""Which KV heads of a model this process holds, if tensor parallelism splits the model over ranks.

transformers (`tp_plan="auto"`) and PyTorch (`parallelize_module`) give every rank some heads of each attention layer.
Their modules still have the configuration of the whole model, and gates, plans and budgets belong to the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# Plans of transformers after which a rank's own heads are the output of a projection; with others it has all of them.
SPLIT = ("colwise", "local_colwise")


@dataclass(frozen=True, eq=False)
class HeadShard:
    """The KV heads that this rank holds of every layer. All ranks hold the same number.

    Communication happens only if there are several ranks. Every rank must then call the same methods in the same order.

    Parameters
    ----------
    total : int
        KV heads of the model.
    first, count : int
        The first of this rank's heads, and their number.
    group : ProcessGroup, optional
        The ranks that share the heads, in their order; None if this process holds all heads.
    """

    total: int
    first: int
    count: int
    group: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> HeadShard:
        """Return self: copies belong to the same ranks."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle needs; other processes do not have this group of ranks."""
        if self.group is not None:
            raise TypeError(
                "what belongs to a model that is split over ranks cannot be pickled: save a cache with cache.save, a "
                "file for each rank"
            )
        return HeadShard, (self.total, self.first, self.count)

    @property
    def is_whole(self) -> bool:
        """Whether this process holds all heads."""
        return self.group is None

    @property
    def ranks(self) -> int:
        """Number of ranks that share the heads."""
        return self.total // self.count

    def cut(self, numbers: torch.Tensor, dim: int, per_head: int = 1) -> torch.Tensor:
        """Return this rank's part of numbers that are given for all heads of the model.

        Parameters
        ----------
        numbers : torch.Tensor
            Any shape.
        dim : int
            Dimension of the heads.
        per_head : int, default=1
            Size of this dimension for each KV head, such as the number of its query heads.

        Raises
        ------
        ValueError
            If the numbers are for another number of heads.
        """
        if numbers.shape[dim] != self.total * per_head:
            raise ValueError(
                f"there are numbers for {numbers.shape[dim]} heads, but the model has {self.total * per_head}: give "
                "them for all heads of the model, of which every rank takes its own"
            )
        return numbers.narrow(dim, self.first * per_head, self.count * per_head)

    def own(self, things: Sequence[T]) -> Sequence[T]:
        """Return this rank's part of a sequence with one item for each head of the model."""
        assert len(things) == self.total
        return things[self.first : self.first + self.count]

    def gathered(self, numbers: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the numbers of all heads of the model, in their order, given those of each rank's own heads."""
        if self.is_whole:
            return numbers
        parts = [torch.empty_like(numbers, memory_format=torch.contiguous_format) for _ in range(self.ranks)]
        dist.all_gather(parts, numbers.contiguous(), group=self.group)
        return torch.cat(parts, dim=dim)

    def collected(self, thing: T) -> list[T]:
        """Return what each rank has given, by rank: small things that can be pickled."""
        if self.is_whole:
            return [thing]
        things: list[Any] = [None] * self.ranks
        dist.all_gather_object(things, thing, group=self.group)
        return things

    @contextmanager
    def together(self, device: torch.device) -> Iterator[None]:
        """Raise an error on every rank if the block raises one on any rank, so that no rank waits for another.

        The block itself must not communicate after the statement that may raise.

        Parameters
        ----------
        device : torch.device
            Where the ranks exchange a number: that of their tensors.

        Raises
        ------
        ValueError
            If another rank failed; the message contains its message.
        """
        if self.is_whole:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as raised:  # raised again below, after the other ranks know
            error = raised
        failed = torch.tensor([int(error is not None)], device=device)
        dist.all_reduce(failed, group=self.group)
        if not failed.item():
            return
        reasons = self.collected(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        others = "; ".join(f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None)
        raise ValueError(f"another rank has failed, and this one stops with it ({others})")

    def agree(self, settings: Mapping[str, Any]) -> None:
        """Raise a ``ValueError`` on every rank unless all ranks have the same settings; the message names differences.

        Parameters
        ----------
        settings : mapping of str to object
            Short things with a ``str`` that says what they are.
        """
        if self.is_whole:
            return
        found = self.collected({name: str(value) for name, value in settings.items()})
        differing = [name for name in found[0] if len({of_rank.get(name) for of_rank in found}) > 1]
        if differing:
            listed = "; ".join(
                f"{name}: " + ", ".join(f"rank {rank} has {of_rank[name]}" for rank, of_rank in enumerate(found))
                for name in differing
            )
            raise ValueError(f"the ranks differ ({listed}): load the same model and create the same press on all ranks")


def shard_of(attention: Any) -> HeadShard:
    """Return which heads of its model an attention module computes in this process.

    Parameters
    ----------
    attention : Attention
        An attention module, or what stands in for it.

    Raises
    ------
    ValueError
        If the number of ranks does not divide the number of KV heads, so that some heads would be cut; on every rank.
    """
    known = getattr(attention, "head_shard", None)
    if known is not None:
        return known
    config = attention.config
    total = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    projection = getattr(attention, "k_proj", None)
    mesh = mesh_of(projection) if projection is not None and _is_split(projection) else None
    if mesh is None or mesh.size() == 1:
        return HeadShard(total, 0, total)
    if total % mesh.size():
        raise ValueError(
            f"{mesh.size()} ranks would cut some of the {total} KV heads of this model, with which its attention "
            f"cannot run: use a number of ranks that divides {total}"
        )
    count = total // mesh.size()
    return HeadShard(total, mesh.get_local_rank() * count, count, mesh.get_group())


def _is_split(projection: Any) -> bool:
    plan = getattr(projection, "_hf_tp_plan", None)
    if plan is not None:
        return plan in SPLIT
    placements = getattr(getattr(projection, "weight", None), "placements", ())
    return any(placement.is_shard(0) for placement in placements)


def mesh_of(projection: Any) -> Any:
    """Return the one-dimensional device mesh over which a projection is split, or None if it is not.

    Raises
    ------
    ValueError
        If transformers has split the projection and left no trace of the mesh.
    """
    weight: Any = getattr(projection, "weight", None)
    if hasattr(weight, "device_mesh"):  # a DTensor: PyTorch, and transformers before 5
        return weight.device_mesh
    if getattr(projection, "_hf_tp_plan", None) is None:
        return None
    for hook in projection._forward_hooks.values():  # transformers 5 keeps it only in hooks
        for cell in getattr(hook, "__closure__", None) or ():
            if isinstance(cell.cell_contents, dist.DeviceMesh):
                return cell.cell_contents
    raise ValueError(
        "this model is split over ranks in a way that pikvpress does not know: use transformers 4.56 to 5.2 with "
        "tp_plan='auto'"
    )


def sample_of_columns(projection: Any, width: int, count: int) -> torch.Tensor:
    """Return evenly spaced entries of a projection's weight, whose columns may be split over ranks.

    Parameters
    ----------
    projection : nn.Linear
        Weight of shape (rows, columns); a rank may hold consecutive columns only.
    width : int
        Columns of the whole weight.
    count : int
        The most entries to return.

    Returns
    -------
    torch.Tensor
        Whether each entry is positive, uint8: the same on every rank, and the same as in one process.
    """
    weight = projection.weight.detach()
    weight = weight.to_local() if hasattr(weight, "to_local") else weight
    mesh = mesh_of(projection) if weight.shape[1] != width else None
    width = weight.shape[1] if mesh is None else width
    whole = weight.shape[0] * width
    places = torch.arange(0, whole, max(1, whole // count), device=weight.device)[:count]
    rows, columns = places // width, places % width
    if mesh is None:
        return (weight[rows, columns] > 0).to(torch.uint8)
    columns = columns - mesh.get_local_rank() * -(-width // mesh.size())
    mine = (columns >= 0) & (columns < weight.shape[1])
    found = torch.zeros(len(places), dtype=torch.uint8, device=weight.device)
    found[mine] = (weight[rows[mine], columns[mine]] > 0).to(torch.uint8)
    dist.all_reduce(found, group=mesh.get_group())
    return found
