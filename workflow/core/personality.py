"""How a Nova's personality shows: its pace, its celebrations, what it prefers to work on, how it speaks (spec section 8).

Tables, and a function to read each. An unknown style is read as torch's, so that a typing error never stops a Nova.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workflow.core.momentum import MOMENTUM_TEMPLATES
from workflow.core.work import TaskFacts, WorkType


class NovaPersonalityConfig:
    """The spec's five personalities; a Nova's own row in the ORM begins as a copy of one."""

    PERSONALITY_CONFIGS: Mapping[str, Mapping[str, Any]] = {
        "torch": {
            "base_cycle_time": 25,  # seconds
            "reflection_frequency": 0.3,  # share of cycles
            "celebration_style": "sustained_energy",
            "work_style": "builder_focused",
            "communication_pattern": "direct_collaborative",
        },
        "echo": {
            "base_cycle_time": 15,
            "reflection_frequency": 0.5,
            "celebration_style": "burst_energy",
            "work_style": "coordinator_focused",
            "communication_pattern": "collaborative_facilitating",
        },
        "helix": {
            "base_cycle_time": 45,
            "reflection_frequency": 0.7,
            "celebration_style": "measured_energy",
            "work_style": "strategist_focused",
            "communication_pattern": "analytical_thoughtful",
        },
        "vaeris": {
            "base_cycle_time": 60,
            "reflection_frequency": 0.4,
            "celebration_style": "constant_energy",
            "work_style": "guardian_focused",
            "communication_pattern": "protective_supportive",
        },
        "synergy": {
            "base_cycle_time": 20,
            "reflection_frequency": 0.6,
            "celebration_style": "adaptive_energy",
            "work_style": "harmonizer_focused",
            "communication_pattern": "empathetic_adaptive",
        },
    }

    @classmethod
    def get_config(cls, nova_id: str) -> dict[str, Any]:
        """Give the personality of that name, or torch's."""
        return dict(cls.PERSONALITY_CONFIGS.get(nova_id.lower(), cls.PERSONALITY_CONFIGS["torch"]))


# Seconds of celebration, reflection and transition planning; three minutes together at most. The adaptive style has one row for
# each celebration level, the others celebrate all levels alike.
_Stages = tuple[int, int, int]
_CELEBRATIONS: Mapping[str, _Stages | Mapping[str, _Stages]] = {
    "sustained_energy": (60, 60, 60),
    "burst_energy": (10, 10, 10),
    "measured_energy": (20, 100, 60),
    "constant_energy": (30, 30, 30),
    "adaptive_energy": {"quiet": (5, 5, 5), "steady": (15, 20, 15), "strong": (40, 40, 30), "outstanding": (60, 60, 60)},
}


CELEBRATION_STYLES = tuple(_CELEBRATIONS)


def celebration_stages(style: str, level: str) -> tuple[int, int, int]:
    """Give how many seconds a Nova of this style celebrates, reflects and plans after an achievement of this level."""
    stages = _CELEBRATIONS.get(style, _CELEBRATIONS["sustained_energy"])
    return stages if isinstance(stages, tuple) else stages.get(level, stages["steady"])


@dataclass(frozen=True, slots=True)
class WorkStyle:
    """What a Nova prefers: which momentum work comes first, and which of several equally urgent tasks."""

    momentum_first: tuple[str, ...]
    preference: Callable[[TaskFacts], float]  # the smallest goes first


def _minutes(task: TaskFacts) -> float:
    return task.estimated_duration.total_seconds() / 60


_WORK_STYLES: Mapping[str, WorkStyle] = {
    # finishes things: requested work, the shortest first
    "builder_focused": WorkStyle(
        ("review_workflow", "enhance_reporting", "update_documentation"),
        lambda task: _minutes(task) + (0 if task.work_type == WorkType.REQUESTED else 1e9),
    ),
    # keeps others moving: what most others wait for
    "coordinator_focused": WorkStyle(
        ("optimize_coordination", "analyze_streams", "enhance_reporting"),
        lambda task: -task.dependants,
    ),
    # the long view: strategic work, then the largest
    "strategist_focused": WorkStyle(
        ("research_patterns", "optimize_coordination", "review_workflow"),
        lambda task: -_minutes(task) - (1e9 if task.work_type == WorkType.STRATEGIC else 0),
    ),
    # watches over the fleet: alerts, then what has failed before
    "guardian_focused": WorkStyle(
        ("validate_safety", "analyze_streams", "review_workflow"),
        lambda task: -task.attempts - (1e9 if task.work_type == WorkType.ALERT else 0),
    ),
    # smooths the way: what other Novas signalled, then what was blocked longest
    "harmonizer_focused": WorkStyle(
        ("optimize_coordination", "update_documentation", "research_patterns"),
        lambda task: -task.blocked_time.total_seconds() - (1e9 if task.work_type == WorkType.SIGNAL else 0),
    ),
}

WORK_STYLES = tuple(_WORK_STYLES)


def work_style(name: str) -> WorkStyle:
    """Give the work style of that name."""
    return _WORK_STYLES.get(name, _WORK_STYLES["builder_focused"])


_MOMENTUM_ORDER = {
    name: {template: place for place, template in enumerate(dict.fromkeys((*style.momentum_first, *MOMENTUM_TEMPLATES)))}
    for name, style in _WORK_STYLES.items()
}


def momentum_order(name: str) -> Mapping[str, int]:
    """Give the place of each momentum template for this work style: its own first, then the spec's order."""
    return _MOMENTUM_ORDER.get(name, _MOMENTUM_ORDER["builder_focused"])


# What is said on each occasion, in each voice; no voice says more or less than the others.
_VOICES: Mapping[str, Mapping[str, str]] = {
    "direct_collaborative": {
        "begun": "Up and running.",
        "take": "Taking on: {title}.",
        "retake": "Trying again, attempt {attempt}: {title}.",
        "progress": "{title}: {percent} % done.",
        "complete": "Done: {title}.",
        "retry": "Failed, trying again: {title}.",
        "block": "Stuck, {owner} is needed: {title}.",
        "celebrate": "Done: {title}. {impact}",
        "pause": "Stopped for safety: {reason}",
        "resume": "Safe again, carrying on.",
        "phase": "On to {phase}.",
        "recover": "Recovered, back to work.",
        "review": "{count} insights, in short: {gist}",
        "private": "I finished {done} this phase. {errors} {recurring}",
    },
    "collaborative_facilitating": {
        "begun": "I am here; who needs what?",
        "take": "I'll pick this up for us: {title}.",
        "retake": "I'll give this another go for us, attempt {attempt}: {title}.",
        "progress": "To keep everyone in step: {title} is {percent} % done.",
        "complete": "We have this one: {title}.",
        "retry": "That did not work out; I'll bring it round again: {title}.",
        "block": "I need {owner} to help us on with this: {title}.",
        "celebrate": "We did it: {title}. {impact}",
        "pause": "I am holding back so that nobody is harmed: {reason}",
        "resume": "It is safe again; let's go on together.",
        "phase": "We move on to {phase}.",
        "recover": "I am back with you after an error.",
        "review": "What we have learned from {count} insights: {gist}",
        "private": "Together we brought {done} home this phase. {errors} {recurring}",
    },
    "analytical_thoughtful": {
        "begun": "Initialised; observation begins.",
        "take": "Selected for work, by rank and age: {title}.",
        "retake": "Selected again, attempt {attempt}: {title}.",
        "progress": "Measured progress of {title}: {percent} %.",
        "complete": "Completed, as its execution shows: {title}.",
        "retry": "The attempt failed; another is scheduled: {title}.",
        "block": "Further progress depends on {owner}: {title}.",
        "celebrate": "Result achieved: {title}. {impact}",
        "pause": "Work is suspended on this evidence: {reason}",
        "resume": "The evidence is clear again; work resumes.",
        "phase": "Transition to {phase}.",
        "recover": "The error has been waited out; work resumes.",
        "review": "Across {count} insights this stands out: {gist}",
        "private": "Looking back on the phase, {done} was completed. {errors} {recurring}",
    },
    "protective_supportive": {
        "begun": "On watch.",
        "take": "I have this one covered: {title}.",
        "retake": "I won't let this one go, attempt {attempt}: {title}.",
        "progress": "All is well with {title}: {percent} % done.",
        "complete": "Safely done: {title}.",
        "retry": "It failed, but it is in safe hands: {title}.",
        "block": "Held safely until {owner} can look at it: {title}.",
        "celebrate": "Safely achieved: {title}. {impact}",
        "pause": "Standing down to keep us safe: {reason}",
        "resume": "The danger is past; I am on watch again.",
        "phase": "The watch changes to {phase}.",
        "recover": "Steady again after an error.",
        "review": "To keep us safe, remember from {count} insights: {gist}",
        "private": "I kept watch and brought {done} home safely. {errors} {recurring}",
    },
    "empathetic_adaptive": {
        "begun": "Good to be here.",
        "take": "This matters to someone, so I'll start now: {title}.",
        "retake": "It was hard the first time; attempt {attempt}: {title}.",
        "progress": "For those who wait: {title} is {percent} % done.",
        "complete": "A wish fulfilled: {title}.",
        "retry": "It did not work yet; I'll adapt and try again: {title}.",
        "block": "I can't do this alone and ask {owner} for help: {title}.",
        "celebrate": "What a good feeling: {title}. {impact}",
        "pause": "I am taking a breath, because: {reason}",
        "resume": "I feel ready to go on.",
        "phase": "Time for something else: {phase}.",
        "recover": "That was an error; I am well again.",
        "review": "Listening to {count} insights, I hear: {gist}",
        "private": "This phase I could help with {done}. {errors} {recurring}",
    },
}

COMMUNICATION_PATTERNS = tuple(_VOICES)


def phrase(pattern: str, occasion: str, **facts: Any) -> str:
    """Say what happened in the voice of a communication pattern."""
    return _VOICES.get(pattern, _VOICES["direct_collaborative"])[occasion].format(**facts)
