"""`evagen push`: a folder of trained models to the hub."""

import json
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from evagen.config import read_described
from evagen.errors import UserError
from evagen.kernels.sources import CONFIG, INDEX, OWNER
from evagen.report.model_card import CardOptions, renamed, stored_parts, write_card
from evagen.report.training_facts import training_facts

OF_A_MODEL = (CONFIG, "*.safetensors", "*.safetensors.index.json", "README.md", "LICENSE*")
"""What is pushed of a single model's folder, which may be that of a run."""
OF_A_PIPELINE = (INDEX, "pipeline.py", "*.md", "LICENSE*", "*.png", "*.gif", "*.mp4")
"""What is pushed of a pipeline's folder beside its models: the pictures are its card's."""


def main(folder: Path, repo: str, private: bool = False) -> str:
    """Pushes a pipeline, or a single model, with its card; one without a card gets one. Of a run only the model is
    pushed. Returns the page's address.

    Raises UserError for a folder without a model, a name that a repository cannot have, and where the hub cannot be
    reached or refuses."""
    parts = stored_parts(folder)
    _check_name(repo)
    with tempfile.TemporaryDirectory() as place:
        staged = Path(place) / "models"
        _copy(folder, staged)
        card = staged / "README.md"
        if card.exists():
            card.write_text(renamed(_text_of(folder / card.name), repo), encoding="utf-8")
        else:
            training = {} if (folder / INDEX).exists() else {part: training_facts(part, folder) for part in parts}
            write_card(staged, CardOptions(repo, training=training))
        return _upload(staged, repo, private)


def _text_of(card: Path) -> str:
    try:
        return card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{card} is not UTF-8 ({error}): save it as such, or delete it to have one written") from error


def _check_name(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{repo} cannot be the name of a repository: {error}") from error
    if repo.startswith(f"{OWNER}/"):
        raise UserError(f"{repo}: names that begin with {OWNER}/ mean the models in the box; choose another owner")


def _copy(folder: Path, staged: Path) -> None:
    """What is to be pushed. Configs lose where a model was loaded from, which earlier versions wrote."""
    is_pipeline = (folder / INDEX).exists()
    patterns = [*(OF_A_PIPELINE if is_pipeline else OF_A_MODEL), *([f"*/{each}" for each in OF_A_MODEL] * is_pipeline)]
    for path in sorted({each for pattern in patterns for each in folder.glob(pattern)}):
        target = staged / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name in (CONFIG, INDEX):
            values = read_described(path)
            values.pop("_name_or_path", None)
            target.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(path, target)


def _upload(folder: Path, repo: str, private: bool) -> str:
    api = HfApi()
    try:
        where = api.create_repo(repo, private=private or None, exist_ok=True)  # None: by the owner's default
        api.upload_folder(repo_id=where.repo_id, folder_path=folder, commit_message="Upload with evagen push")
        return str(where)
    except LocalTokenNotFoundError as error:
        raise UserError(_log_in(repo)) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 401:
            raise UserError(_log_in(repo)) from error
        if status == 403:
            raise UserError(
                f"the hub does not let you write to {repo}: give a name of your own, or log in with a token that may "
                "write (`hf auth login`)"
            ) from error
        raise UserError(f"the hub refused {repo}: {error}") from error
    except (HTTPError, ConnectionError) as error:
        raise UserError(
            f"the hub cannot be reached ({error}); nothing was pushed. Look at the network and at HF_HUB_OFFLINE, and "
            "give the command again"
        ) from error


def _log_in(repo: str) -> str:
    return f"pushing to {repo} needs a login: `hf auth login` with a token that may write, or HF_TOKEN"
