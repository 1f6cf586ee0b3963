"""How the command line words an error: what the library says, and the flag or command that does it."""

from rwkv_core.errors import Remedy, RemedyCode

_WORDS: dict[RemedyCode, str] = {
    "allow any modality": "--any-modality allows it.",
    "check data set": "`rwkv-unet dataset check` lists all findings.",
    "choose batch": "Set it with --set batch=N.",
    "choose catalogue": "Check --catalogue too.",
    "choose channel": "Set it with --set channel=0.",
    "choose name": "Name it with --name NAME.",
    "choose output": "-o takes the folder, --series the number.",
    "choose preset": "Choose it with --preset NAME.",
    "choose series": "--series takes the number or UID.",
    "choose split": "--split takes it.",
    "choose variant": "Set it with --set variant={subject}.",
    "describe checkpoint": "Say it with --as NAME or --config FILE.",
    "download from repository": "`rwkv-unet models download ID --repo {subject}` does it.",
    "download model": "`rwkv-unet models download {subject}` does it.",
    "import model": "`rwkv-unet models import FILE --as {subject}`, or say --repo owner/name --revision COMMIT.",
    "list models": "`rwkv-unet models list` shows them.",
    "lower learning rate": "Use --resume with --set learning_rate=RATE, precision=32-true or gradient_clip=1.",
    "name repository": "--repo OWNER/NAME@COMMIT takes them; `rwkv-unet models list` shows the catalogue.",
    "name revision": "--revision takes it.",
    "overwrite model": "Or say --overwrite.",
    "resume run": "--resume goes on with it.",
    "start run": "Leave --resume away to start one.",
    "train alone": "--unlabelled takes the folder; --set consistency=null trains without.",
    "use prompter": "`rwkv-unet prompt` does it.",
}


def advice(hint: str, remedy: Remedy | None) -> str:
    """Say what to do about an error in a terminal.

    Args:
        hint: of the error.
        remedy: of the error; None where no flag helps.
    """
    words = _WORDS[remedy.code].format(subject=remedy.subject) if remedy else ""
    return f"{hint} {words}".strip()
