"""Pictures of what the benchmarks measured. Knows their figures; needs matplotlib, which nothing else here does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt


def draw_serving(figures: Mapping[str, Any], path: Path) -> None:
    """Capacity as bars, latency against load as lines."""
    capacity: Mapping[str, Mapping[str, float]] = figures["capacity"]
    latency: Sequence[Mapping[str, Any]] = figures["latency"]
    names = list(dict.fromkeys(one["server"] for one in latency))
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for i, clients in enumerate((32, 256)):
        rates = [capacity[f"{clients} {name}"] for name in names]
        places = [place + 0.4 * i for place in range(len(names))]
        errors = [[one["rate"] - one["low"] for one in rates], [one["high"] - one["rate"] for one in rates]]
        bars.barh(places, [one["rate"] for one in rates], height=0.38, xerr=errors, label=f"{clients} clients")
    engine = capacity["engine, in process"]["rate"]
    bars.axvline(engine, linestyle="--", color="black", linewidth=1, label="engine, in process")
    bars.set_yticks([place + 0.2 for place in range(len(names))], names)
    bars.invert_yaxis()
    bars.set(xlabel="requests a second (low to high over rounds)", title="Capacity")
    bars.legend()
    for name in names:
        own = [one for one in latency if one["server"] == name and "its capacity" in one["which"]]
        (drawn,) = lines.plot([one["rate"] for one in own], [one["p50"] for one in own], marker="o", label=name)
        lines.plot([one["rate"] for one in own], [one["p99"] for one in own], linestyle=":", color=drawn.get_color())
    lines.set(
        yscale="log",
        xlabel="requests a second, at random times",
        ylabel="ms (line: p50, dotted: p99)",
        title="Latency at 50, 80 and 95 % of its own capacity",
    )
    figure.legend(*lines.get_legend_handles_labels(), loc="outside lower right", ncols=5, fontsize="small")
    lines.grid(alpha=0.3)
    machine = figures["machine"]
    figure.suptitle(f"One sample a request, MiniLM; {machine['cpu']}, cores {machine['cores']}", fontsize="medium")
    figure.savefig(path)


def draw_learning(figures: Mapping[str, Any], path: Path) -> None:
    """Accuracy over the number of rows, a line for each variant; what is known beside it, dashed."""
    results: Sequence[Mapping[str, Any]] = figures["results"]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for variant in dict.fromkeys(one["variant"] for one in results):
        line = [one for one in results if one["variant"] == variant]
        x, y = [one["size"] for one in line], [100 * one["accuracy"] for one in line]
        (drawn,) = axes.plot(x, y, marker="o", label=variant or "accuracy")
        low, high = ([100 * one["accuracy_interval"][k] for one in line] for k in (0, 1))
        axes.fill_between(x, low, high, alpha=0.2, color=drawn.get_color())
    known = {"longer wins": results[0]["longer_wins"]} | figures["references"]
    for i, (name, value) in enumerate(known.items()):
        axes.axhline(100 * value, linestyle="--", linewidth=1, color=f"C{5 + i}", label=f"{name}, {value:.1%}")
    sizes = sorted({one["size"] for one in results})
    axes.set(xscale="log", xlabel="rows trained on", ylabel="% of test pairs (band: 95 %, by prompt)")
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.minorticks_off()
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path)


def draw_training(figures: Mapping[str, Any], path: Path) -> None:
    """The losses of both trainers, step by step."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, style in (("this project", "-"), ("TRL RewardTrainer", "--")):
        one = figures[name]
        rate = sorted(one["rates"])[len(one["rates"]) // 2]
        losses = one["losses"]
        axes.plot(range(1, len(losses) + 1), losses, style, marker=".", label=f"{name}, {rate:.1f} pairs/s")
    axes.set(xlabel="step", ylabel="loss", title="The same model, pairs and order")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


def draw_prefixes(figures: Sequence[Mapping[str, float]], described: Mapping[str, str], path: Path) -> None:
    """One line for each prompt, its limit dashed."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for prompt in dict.fromkeys(one["prompt"] for one in figures):
        line = [one for one in figures if one["prompt"] == prompt]
        x = [one["responses"] for one in line]
        (drawn,) = axes.plot(x, [one["ratio"] for one in line], marker="o", label=f"prompt of {prompt:.0f} tokens")
        axes.fill_between(x, [o["low"] for o in line], [o["high"] for o in line], alpha=0.2, color=drawn.get_color())
        axes.plot(x, [one["limit"] for one in line], linestyle="--", linewidth=1, color=drawn.get_color())
    axes.set(
        xscale="log",
        xlabel="responses to one prompt",
        ylabel="times faster than without sharing",
        title=f"Shared prefixes ({described['dtype']}, {described['threads']} threads; dashed: ratio of tokens)",
    )
    responses = sorted({one["responses"] for one in figures})
    axes.set_xticks(responses, [f"{n:.0f}" for n in responses])
    axes.minorticks_off()
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)
