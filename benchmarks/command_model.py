"""The model that `benchmarks/commands.py` serves: one typed command, stored and answered."""

from __future__ import annotations

from reactor_trio import InputField, ModelMessage, ReactorModel, connected, event


class PromptSet(ModelMessage):
    """The settings that are in force now."""

    prompt: str
    strength: float


class Echo(ReactorModel):
    """No frames: all that happens is commands."""

    @connected
    def on_connect(self) -> None:
        self.prompt, self.strength = "", 0.0

    @event
    def set_prompt(
        self,
        prompt: str = InputField(min_length=1, max_length=500),
        strength: float = InputField(ge=0.0, le=1.0),
    ) -> PromptSet:
        self.prompt, self.strength = prompt, strength
        return PromptSet(prompt=prompt, strength=strength)

    @event
    def reset(self) -> None:
        self.prompt, self.strength = "", 0.0
