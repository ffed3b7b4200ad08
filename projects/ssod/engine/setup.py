"""Makes a config from the command line, and reports mistakes in one line."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import signal
import sys
from typing import Any, Callable, Iterator, List, Optional, Sequence

import detectron2
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

import ssod
from ssod.config import add_ssod_config
from ssod.engine.config_checks import check_config, wanted_type
from ssod.engine.config_files import merge_config, read_config
from ssod.engine.duplicate_keys import check_duplicate_keys
from ssod.engine.imports import add_imported_config
from ssod.errors import UserError
from ssod.resources import find_config, near_configs
from ssod.utils.atomic import write_atomically
from ssod.utils.failures import as_user_error
from ssod.utils.run_lock import check_free, make_output_dir

logger = logging.getLogger(__name__)


def load_config(path: str, opts: Sequence[str] = ()) -> CfgNode:
    """The defaults of Detectron2 and this project, changed by a YAML file (over its `_BASE_`) and
    by KEY VALUE pairs.

    YAML tags that build Python objects are refused. The result is not frozen.

    Args:
        path: a file or the name of a packaged config (`ssod.resources`). Empty: only the defaults.
            opts: KEY VALUE KEY VALUE ...

    Raises:
        UserError: a file is missing or is not YAML, a key does not exist, or a value has another
            type than the default.
    """
    path = find_config(path)
    cfg = get_cfg()
    add_ssod_config(cfg)
    add_imported_config(cfg, path, opts)
    if path:
        _merge_file(cfg, path)
    if len(opts) % 2:
        raise UserError(
            f"{' '.join(opts)}: overrides are KEY VALUE pairs, and one has no value: add it."
        )
    for key, value in zip(opts[0::2], opts[1::2]):
        try:
            cfg.merge_from_list([key, value])
        except (AssertionError, KeyError, ValueError) as error:
            raise UserError(_explain(cfg, error, "command line", key)) from None
    check_config(cfg)
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """Prepares each process: loads the config, opens the log files and sets the seed.

    Writes `log.txt` and the complete `config.yaml` into `OUTPUT_DIR`.

    Args:
        args: parsed arguments with `config_file` and `opts`.

    Returns:
        The frozen config.
    """
    cfg = load_config(args.config_file, split_opts(args.opts))
    cfg.freeze()
    rank = comm.get_rank()
    make_output_dir(cfg.OUTPUT_DIR)
    eval_only = getattr(args, "eval_only", False)
    if rank == 0 and not eval_only:
        check_free(cfg.OUTPUT_DIR)  # before files of another run are overwritten
    setup_logger.cache_clear()  # each run of a process gets its own log.txt
    for name in ("fvcore", "detectron2", "ssod"):
        logging.getLogger(name).handlers.clear()
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name=name, abbrev_name=name)
    logger.info(
        f"ssod {ssod.__version__}, Detectron2 {detectron2.__version__}, PyTorch {torch.__version__}, "
        f"{comm.get_world_size()} process(es) on {cfg.MODEL.DEVICE}, "
        f"{args.config_file}, output in {cfg.OUTPUT_DIR}"
    )
    described = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    # An evaluation does not overwrite the config of the training.
    if comm.is_main_process() and not (eval_only and os.path.exists(described)):
        text = cfg.dump()
        write_atomically(described, lambda file: file.write(text.encode()))
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    return cfg


def run_cli(main: Callable[[], Any]) -> None:
    """Runs a command.

    A `UserError` becomes one line on stderr and exit status 1. Ctrl-C becomes one line and status
    130.
    """
    try:
        main()
    except KeyboardInterrupt:
        print("Stopped by Ctrl-C.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        known = as_user_error(error)
        if known is None:
            raise
        print("error: " + " ".join(str(known).split()), file=sys.stderr)
        sys.exit(1)


def _merge_file(cfg: CfgNode, path: str) -> None:
    if not PathManager.isfile(path):
        raise UserError(
            f"Config file {path} does not exist: check --config-file; {near_configs(path)}"
        )
    check_duplicate_keys(path)
    # Detectron2 warns whenever a file has no VERSION; that warning does not help users.
    chatter = logging.getLogger("detectron2.config.compat")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        merge_config(cfg, read_config(path), path)
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else "is no file"
        raise UserError(
            f"{path}: its _BASE_ {error.filename} {what}: correct the path, which is relative to the file, or "
            "take a name that `ssod configs` lists."
        ) from None
    except yaml.constructor.ConstructorError as error:
        mark = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(
            f"{path}{mark}: {error.problem}. Python objects are not loaded from YAML: write plain values."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: its _BASE_ leads back to itself: remove one of them.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file: name a YAML config.") from None
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(_explain(cfg, error, path)) from None
    except (TypeError, AttributeError):
        raise UserError(
            f"{path}: it or its _BASE_ is empty or no mapping of keys to values."
        ) from None
    finally:
        chatter.setLevel(level)


def _explain(cfg: CfgNode, error: Exception, source: str, key: Optional[str] = None) -> str:
    """One line that names the source and the key. If the key does not exist, the line has the
    nearest existing key.
    """
    text = " ".join(str(error.args[0] if error.args else error).split())
    mismatch = re.search(r"with values \((.*) vs\. (.*)\) for config key: (\S+)", text)
    if text.startswith("Type mismatch") and mismatch:
        was, value, key = mismatch.groups()
        return f"{source}: {key} is {value}: {_wanted_instead(cfg, key, value)}."
    missing = re.match(r"Non-existent (?:config )?key: (\S+)", text)
    if missing:
        wrong = missing.group(1)
        near = _nearest(cfg, wrong)
        own = " (A part of your own adds its keys in a function add_config(cfg) of a module that SSOD.IMPORTS lists.)"
        return f"{source}: there is no key {wrong}" + (
            f"; did you mean {near}?" if near else f": see ssod/config.py.{own}"
        )
    return f"{source}: " + (f"{key}: " if key and key not in text else "") + text


def _wanted_instead(cfg: CfgNode, key: str, value: str) -> str:
    """Says how to write a value of the type that `key` has."""
    default: Any = cfg
    for part in key.split("."):
        default = default[part] if isinstance(default, CfgNode) and part in default else None
    if isinstance(default, float) and re.fullmatch(r"-?\d+", value):
        return f"write {value}.0"
    if isinstance(default, int) and re.fullmatch(r"-?\d+\.0*", value):
        return f"write {value.split('.')[0]}"
    return wanted_type(default)


def _nearest(cfg: CfgNode, wrong: str) -> Optional[str]:
    keys = list(_keys(cfg))
    last = wrong.rsplit(".", 1)[-1]
    same_name = [key for key in keys if key.rsplit(".", 1)[-1] == last]
    close = difflib.get_close_matches(
        wrong, same_name, n=1, cutoff=0.0
    ) or difflib.get_close_matches(wrong, keys, n=1)
    alike = difflib.SequenceMatcher(None, last, close[0].rsplit(".", 1)[-1]) if close else None
    return close[0] if alike is not None and alike.ratio() >= 0.4 else None


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")


def split_opts(opts: Optional[List[str]]) -> List[str]:
    """argparse's REMAINDER without a leading `--`."""
    return [opt for opt in opts or [] if opt != "--"]
