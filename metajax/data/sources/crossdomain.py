"""Pairs of domains with shared users as `Interactions`: Douban Book and Music, Amazon.

Both tables of a pair number the shared users first and in the same order: index u < `shared_users`
is the same person in both, and every other value of ``user_ids`` belongs to one table only. Users
and items are those with at least one row. Every reader takes the folder of the files, or its
parent, and raises a `UserError` for a missing, truncated or damaged file.
"""

from pathlib import Path

import numpy as np

from metajax.data.sources.files import (
    IMPLICIT,
    STARS,
    arrays,
    assemble,
    dataset_folder,
    integers,
    numbers,
    required,
)
from metajax.data.table import Interactions, index_encode


def douban_book(folder: Path | str) -> Interactions:
    """Douban Book: 2,110 users, 6,777 items, 96,041 ratings of 1..5; 1,566 users shared with Music.

    References: F. Zhu et al., "DTCDR", CIKM 2019; F. Zhu et al., IJCAI 2020.
    """
    return _douban(folder, "book", "music")


def douban_music(folder: Path | str) -> Interactions:
    """Douban Music: 1,672 users, 5,567 items, 69,709 ratings of 1..5; 1,566 users shared with Book.

    References: F. Zhu et al., "DTCDR", CIKM 2019; F. Zhu et al., IJCAI 2020.
    """
    return _douban(folder, "music", "book")


def _douban(folder: Path | str, domain: str, other: str) -> Interactions:
    folder = dataset_folder(folder, "douban")
    path, other_path = (required(folder, f"{d}_ratings.dat", "douban") for d in (domain, other))
    names = ("user id", "item id", "rating")
    log, other_log = (numbers(p, "\t", names) for p in (path, other_path))
    user = integers(log[:, 0], path, "user id")
    known = np.unique(user)
    shared = np.isin(known, other_log[:, 0])
    user_ids = np.concatenate([known[shared], known[~shared]])
    order = np.argsort(user_ids)
    index = order[np.searchsorted(user_ids, user, sorter=order)]
    item = index_encode(integers(log[:, 1], path, "item id"))
    name = f"douban-{domain}"
    return assemble(name, (index, user_ids), item, log[:, 2], None, STARS)


def amazon_cloth(folder: Path | str) -> Interactions:
    """Amazon Clothing, implicit: 41,829 users, 17,943 items; 9,828 users shared with Sport.

    ``state`` is the published cold-start split: 0 train, 1 valid, 2 test.

    References: J. Cao et al., "Cross-Domain Recommendation to Cold-Start Users via Variational
    Information Bottleneck", ICDE 2022.
    """
    return _cloth_sport(folder, "cloth")


def amazon_sport(folder: Path | str) -> Interactions:
    """Amazon Sports, implicit: 27,328 users, 12,655 items; 9,828 users shared with Cloth.

    ``state`` is the published cold-start split: 0 train, 1 valid, 2 test.

    References: J. Cao et al., ICDE 2022.
    """
    return _cloth_sport(folder, "sport")


def _cloth_sport(folder: Path | str, domain: str) -> Interactions:
    folder = dataset_folder(folder, "amazon-cloth-sport")
    path = required(folder, "cloth_sport.npz", "amazon-cloth-sport")
    names = [f"{domain}_{part}" for part in ("train", "valid", "test")]
    found = arrays(path, ["n_shared_users", *names])
    pairs = np.concatenate([found[name] for name in names])
    state = np.repeat(np.arange(3, dtype=np.int8), [len(found[name]) for name in names])
    shared = int(found["n_shared_users"])
    user, known = index_encode(pairs[:, 0])
    user_ids = np.array([str(u) if u < shared else f"{domain}-{u}" for u in known.tolist()])
    item, ones = index_encode(pairs[:, 1]), np.ones(len(pairs))
    return assemble(f"amazon-{domain}", (user, user_ids), item, ones, None, IMPLICIT, state=state)


def shared_users(first: Interactions, second: Interactions) -> int:
    """The number of leading user indices that mean the same person in both tables."""
    n = min(first.num_users, second.num_users)
    alike = first.user_ids[:n] == second.user_ids[:n]
    return n if alike.all() else int(np.argmin(alike))


FOUR_DOMAINS = ("amazon-beauty", "amazon-electronics", "amazon-grocery4", "amazon-home")
"""Names of the domains of `four_domains`, in the order of the file."""


ALL_FOUR = "amazon-four-domains"


def four_domains(folder: Path | str, name: str = ALL_FOUR) -> Interactions:
    """One of four Amazon domains, or all, implicit, with days; 1,994 users are in all four.

    Users keep one number over all domains, in ``user_ids``. ``amazon-grocery4`` is not the data set
    amazon-grocery, whose users and items are others.

    Args:
      folder: that of the file, or its parent.
      name: of `FOUR_DOMAINS`; by default all four, one user's events of all domains together.
    """
    folder = dataset_folder(folder, "amazon-four-domains")
    path = required(folder, "four_domains.npz", "amazon-four-domains")
    found = arrays(path, ["n_events", "domain", "item", "day"])
    user = np.repeat(np.arange(len(found["n_events"])), found["n_events"])
    domain, item = found["domain"].astype(np.int64), found["item"].astype(np.int64)
    mine = np.full(len(domain), name == ALL_FOUR)
    if name == ALL_FOUR:
        item = domain * (int(item.max()) + 1) + item  # each domain numbers its items from 0
    else:
        mine = domain == FOUR_DOMAINS.index(name)
    time = found["day"][mine].astype(np.int64) * 86_400
    ones = np.ones(int(mine.sum()))
    return assemble(name, user[mine], item[mine], ones, time, IMPLICIT)
