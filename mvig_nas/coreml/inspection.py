"""All that can be said of a package here, made at any time: whether it is what it states, and what a phone will do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mvig_nas.architecture import Architecture
from mvig_nas.coreml.input_sizes import function_of
from mvig_nas.coreml.interpreter import run
from mvig_nas.coreml.neural_engine import SLICE_LIMIT, Departure, departures, width_slices
from mvig_nas.coreml.package import METADATA_PREFIX, SavedProgram
from mvig_nas.coreml.verification import Verification, example_images, given_to, verify
from mvig_nas.errors import MvigNasError
from mvig_nas.training.model_folder import TrainedModel, read_model

Outcome = Literal["equal", "differs", "not compared", "warning", "fine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one part of an inspection found, in a sentence."""

    part: str
    outcome: Outcome
    text: str


@dataclass(frozen=True)
class Inspection:
    """What was found of a package.

    Attributes:
        package: its path.
        architecture: that it was held against; None where none is known.
        verification: what was compared and found equal; None where something differs or nothing could be compared.
        findings: part by part.
        departures: operations that leave the Neural Engine, by rule.
        sliced: largest |x| in front of each slice along the width that begins inside, by the slice's name, over the
            example images, in fp32; empty where the program cannot be executed.
    """

    package: Path
    architecture: Architecture | None
    verification: Verification | None
    findings: tuple[Finding, ...]
    departures: tuple[Departure, ...] = ()
    sliced: dict[str, float] | None = None

    @property
    def is_verified(self) -> bool:
        """Whether the package was held against an architecture and nothing differs."""
        return self.verification is not None and not any(each.outcome == "differs" for each in self.findings)

    @property
    def verdict(self) -> str:
        """One line."""
        wrong = [each for each in self.findings if each.outcome == "differs"]
        if wrong:
            return f"REFUSED: {wrong[0].text}"
        if self.verification is None:
            return "NOT VERIFIED: there is no architecture to hold the package against; give --architecture or --model."
        warnings = sum(each.outcome == "warning" for each in self.findings)
        weights = "its weights are the model's" if self.verification.convolutions else "its weights were not compared"
        noted = f", with {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
        return f"VERIFIED{noted}: the package computes what its architecture says, and {weights}."


def inspect_package(package: Path, model: Path | None = None, architecture: Architecture | None = None) -> Inspection:
    """Check a package that was made at any time, and say what a phone's Neural Engine will make of it.

    What `verify` compares is compared: SHA-256 of program and weights, operations, normalisation, weights, and the
    program executed in fp64, fp32 and fp16 in torch. Beyond that, which operations leave the Neural Engine, and how
    large values are in front of a slice along the width. What differs is a finding, no error.

    Args:
        package: ends in `.mlpackage`.
        model: the folder that `retrain` left, whose weights, classes and normalisation the package must have.
        architecture: that the package must be of; the model's, or else the one that its metadata name, if None.

    Raises:
        MvigNasError: the model's folder cannot be read, or is of another architecture than the one given.
    """
    trained = None if model is None else read_model(model)
    if trained is not None:
        own = trained.network.architecture
        if architecture is not None and architecture != own:
            raise MvigNasError(
                f"the model must be of the architecture {architecture.fingerprint}, got one of {own.fingerprint}; give "
                "one of the two."
            )
        architecture = own
    try:
        program = SavedProgram(package)
        programs = [program, *(SavedProgram(package, name) for name in program.functions if name != program.function)]
        known = architecture or _stated_architecture(program)
    except MvigNasError as error:
        return Inspection(package, architecture, None, (Finding("package", "differs", str(error)),))
    verification, findings = _verified(program, known, trained)
    if trained is not None:
        findings.extend(_labels(program, trained))
    left = departures(*programs)
    sliced = _sliced(programs) if known is not None else {}
    findings.extend((_engine(left), _slices(sliced, width_slices(program))))
    return Inspection(package, known, verification, tuple(findings), left, sliced)


def _stated_architecture(program: SavedProgram) -> Architecture | None:
    text = program.metadata.get(METADATA_PREFIX + "architecture")
    return None if text is None else Architecture.from_json(text)


def _verified(
    program: SavedProgram, architecture: Architecture | None, trained: TrainedModel | None
) -> tuple[Verification | None, list[Finding]]:
    if architecture is None:
        return None, [Finding("architecture", "not compared", "The metadata name none, and none was given.")]
    network, images = (None, None) if trained is None else (trained.network, trained.preprocessing)
    try:
        found = verify(program.package, architecture, network, images)
    except MvigNasError as error:
        return None, [Finding("comparison", "differs", str(error))]
    return found, list(_told(found, program))


def _told(found: Verification, program: SavedProgram) -> Iterator[Finding]:
    if found.digests:
        yield Finding(
            "SHA-256", "equal", "Program and weights are those that were exported, by the metadata's SHA-256."
        )
    else:
        yield Finding("SHA-256", "not compared", "The metadata state none: an older mvig-nas made the package.")
    yield Finding("operations", "equal", f"{found.operations} operations are those of the architecture's kernel list.")
    if found.input_kind == "image":
        text = program.metadata.get(METADATA_PREFIX + "normalisation", "")
        yield Finding("normalisation", "equal", f"Pixels are normalised as the metadata state: {text}.")
    if found.convolutions:
        text = f"{found.weight_elements} numbers of {found.convolutions} convolutions are the model's in fp16."
        if program.is_compressed:
            text = text.removesuffix(".") + ", compressed ones the nearest that their palette or scale offers."
        yield Finding("weights", "equal", text)
    else:
        yield Finding("weights", "not compared", "No model was given; --model FOLDER compares them.")
    if found.sizes:
        names = ", ".join(map(function_of, found.sizes))
        yield Finding("sizes", "equal", f"All of this holds of {names} as well, functions of the same weights.")
    comparison = found.comparison
    wired = "The wiring is the network's in torch, to the last digits of fp64"
    if comparison.difference is not None:
        wired += f"; logits in fp32 are within {comparison.difference:.1e} of the model's largest"
        wired += ", by compression" if program.is_compressed else ""
    yield Finding("execution", "equal", f"{wired}. {comparison.images} images were executed here, not by Core ML.")
    text = f"Rounding every result to fp16 moves the logits by up to {comparison.rounding_fp16:.1e} of the largest."
    yield Finding("fp16", "fine", f"{text} No value overflows.")


def _labels(program: SavedProgram, trained: TrainedModel) -> Iterator[Finding]:
    if not program.labels:
        return
    if program.labels == trained.classes:
        yield Finding("labels", "equal", f"{len(trained.classes)} class labels are the model's classes.")
    elif sorted(program.labels) == sorted(trained.classes):
        text = f"{program.package} must hold the class labels in the model's order, got another order; export it again."
        yield Finding("labels", "differs", text)
    else:
        yield Finding("labels", "warning", "The class labels are others than the model's class names.")


def _engine(left: tuple[Departure, ...]) -> Finding:
    if not left:
        return Finding("Neural Engine", "fine", "By rule, no operation leaves the Neural Engine.")
    kinds = ", ".join(f"{each.count} x {each.kind} ({each.reason})" for each in left)
    return Finding("Neural Engine", "warning", f"By rule, operations leave the Neural Engine: {kinds}.")


def _slices(sliced: dict[str, float], names: dict[str, str]) -> Finding:
    if not names:
        return Finding("width slices", "fine", "The program has no slice along the width that begins inside.")
    if not sliced:
        return Finding("width slices", "not compared", "The program was not executed.")
    largest = max(sliced.values())
    text = f"In front of {len(sliced)} slices along the width, |x| is at most {largest:.3g}"
    if largest <= SLICE_LIMIT:
        return Finding("width slices", "fine", f"{text}; some Neural Engines overflow above {SLICE_LIMIT:,.0f}.")
    return Finding("width slices", "warning", f"{text}; above {SLICE_LIMIT:,.0f} some Neural Engines make it infinite.")


def _sliced(programs: Sequence[SavedProgram]) -> dict[str, float]:
    largest: dict[str, float] = {}
    try:
        for program in programs:
            names = width_slices(program)
            kept = tuple(dict.fromkeys(names.values()))
            for pixels in example_images(program.side).values() if names else ():
                given = {program.inputs[0].name: given_to(program, pixels)}
                values: dict[str, Any] = run(program, given, "float32", keep=kept)
                for name, source in names.items():
                    value = values[source]
                    assert isinstance(value, Tensor)
                    largest[name] = max(largest.get(name, 0.0), float(value.abs().max()))
    except MvigNasError:
        return {}
    return largest
