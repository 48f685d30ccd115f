"""The structured root of the configuration, and its groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CONFIG_MODULE = "evalkit.configs"

GROUPS = (
    *("model", "sampler", "prompts", "metric", "reference", "training", "extractor", "engine"),
    *("gate", "tracker", "export"),
)
WHOLE = ("experiment", "benchmark")  # groups whose options set what stands in the others
SINGLE = (*WHOLE, "engine", "reference", "training")  # groups of one option, not of a list
RULES = ("gate",)  # groups whose options are rules, not objects to build: they have no `_target_`
FOLDERS = {"training": "reference"}  # groups whose options are another group's


@dataclass
class RunConfig:
    """The root of the configuration; an unknown key is refused.

    Attributes:
        name: the run's name; its results go to `out`. auto: of its models and folders.
        out: folder of this run's results; none: `<store>/<name>` (`runs/<name>` where the store is a URL), with a
            number where another configuration's are.
        store: folder or URL (s3://, gs://, az://) of samples, features and scores, shared by runs. Results are written
            into a folder of this machine, and copied to a store on a URL at the end.
        shards: what a shard of new samples is: "folder", of PNGs; "zip", one file; "auto", a zip on a URL.
        keep_images: which images of new samples stay once features and lint measures are taken of them: "all";
            "sample", the first shard and what contact sheets show; "none". What needs the others later (metrics of
            pairs, an export, another extractor) then says so.
        num_samples: samples per cell; none: as many as its prompt set holds (times samples_per_prompt); "auto": as many
            as it takes, see `auto`.
        auto: of `num_samples=auto`: twice as many at each look, from `first` on, until half widths of intervals
            (`target: {clip_score: 0.5}`) are reached and the gate is decided, or `ceiling` is reached. `halving:
            METRIC` stops cells early that are surely worse in it (docs/power.md).
        batch_size: samples per generation batch; halved where the device runs out of memory.
        max_cells: a larger grid is refused before it is built.
        seed: the cells' seed, or `{sweep: [0, 1]}`.
        seeds: what a sweep of seeds is: "pooled", replicates of a setting, which has one line with the mean over seeds,
            their spread and a standard error by prompt; or "apart", one line per seed.
        device: auto, cpu, cuda or mps.
        dry_run: print the cells, what is there, what is to make and what is missing; make and fetch nothing. Exits
            with 2 where weights or images are missing.
        selfcheck: compute golden values on this machine and device, print them, and do nothing else.
        exclude: cells to leave out: mappings such as `{sampler: ddim, guidance_scale: [1, 8]}`, all parts must match.
        contact_sheet: samples on each cell's contact sheet; 0: none.
        baseline: the cell that all others are compared with: its name, or a mapping such as `{sampler: ddim}` that
            picks one; none: each metric's best.
        noise_floor: true makes the baseline again under changes that should not matter (the same again, loaded anew;
            another batch size; ...), and shows what pairs differ by then: a smaller difference is none. Or which
            changes: `[again, batch_size]`, `{batch_size: 1, device: cpu}` (docs/recipes/same_model.md).
        floor: real images scored as one more line of the table, and each distance to the reference also as a multiple
            of theirs: "split" holds as many as the cells have samples out of the reference, and compares all with the
            rest; or a folder of real images that are not in it (docs/recipes/floor.md).
        save_stats: a folder that takes the reference's statistics of each Frechet metric, to be shared
            (`reference=stats reference.stats.path=FILE`); none: they are not written.
        votes: votes between two cells at a time (`evalkit vote RUN`), by which cells are rated: a votes.csv, a run's
            folder that holds one, a list of these; by name, several sources, `{people: A, judge: B}`; true: the one in
            this run's own folder; none: no ratings (docs/ratings.md).
        add_results: results.json files of earlier runs, whose cells stand in the table as well.
        attributes: a file of what images show (CelebA's list_attr_celeba.txt, or a table with a column of names), for
            means with and without each attribute (evalkit/data/attributes.py); `{path: FILE, only: [Smiling]}`.
        training: what the models were trained on, for metrics of memorisation (`reference@training=folder`).
        rescan: read every image file again, though its size, times and inode are those of the last look.
        readers: processes that read and decode image files: auto, where there are many files and more than 4 cores; 0:
            threads of this process alone.
        lint: look over the sample sets and the reference, while their features are computed (evalkit/lint/).
        report: write report.html.
        arrows: its table tells what got better or worse since the last run of the store that shares a cell and a
            protocol; `evalkit report RUN --previous RUN` picks another run.
        map: `{method: pca}` writes map.json, where samples and reference lie in a metric's features and which modes are
            missing (evalkit/results/feature_map.py); umap: with umap-learn; none: no such file.
        walk: contact sheets of what lies between samples, `{lines: 6}` (see evalkit/results/latent_walk.py).
        profile: true measures where one image's time goes in each cell, part by part, with FLOPs, memory and energy, on
            batches of its own after the samples; `{batch_sizes: [1, 2, 4, 8]}` also how speed and memory go
            with the batch size (docs/recipes/profile.md). false: no.
        export: kinds of files that take the cells' images, below `out`/export (evalkit/results/export.py).
        benchmark: how the file of `benchmark=NAME` is read (evalkit/judges/benchmark_file.py); its prompts, metrics and
            extractors stand in these groups, and have it by interpolation.
        model, sampler, prompts, metric, reference, extractor, engine, gate, tracker: the chosen options by name.
    """

    name: str = "auto"
    out: str | None = None
    store: str = "runs"
    shards: str = "auto"
    keep_images: str = "all"
    num_samples: Any = None
    auto: dict[str, Any] = field(
        default_factory=lambda: {"first": 256, "ceiling": 16384, "target": None, "halving": None}
    )
    batch_size: int = 64
    max_cells: int = 10_000
    seed: Any = 0
    seeds: str = "pooled"
    device: str = "auto"
    dry_run: bool = False
    selfcheck: bool = False
    exclude: list[Any] = field(default_factory=list)
    contact_sheet: int = 40
    baseline: Any = None
    noise_floor: Any = False
    floor: Any = None
    save_stats: str | None = None
    votes: Any = None
    add_results: list[str] = field(default_factory=list)
    attributes: Any = None
    rescan: bool = False
    readers: Any = "auto"
    lint: bool = True
    report: bool = True
    arrows: bool = True
    map: dict[str, Any] = field(default_factory=lambda: {"method": "pca"})
    walk: dict[str, Any] = field(
        default_factory=lambda: {"lines": 0, "tiles": 9, "stops": 1, "through": "samples", "space": None}
    )
    profile: Any = False
    benchmark: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    extractor: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    tracker: dict[str, Any] = field(default_factory=dict)
    export: dict[str, Any] = field(default_factory=dict)
