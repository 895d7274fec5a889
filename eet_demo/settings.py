"""What the owner of this machine sets: the only reader of the environment (`EET_DEMO_*` and a Space's variables)."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One typed record of every variable; see the README for the list."""

    model_config = SettingsConfigDict(env_prefix="EET_DEMO_", extra="ignore")

    models_dir: Path = Path.home() / ".cache" / "eet-demo" / "models"
