import inspect
from typing import Any

import pytest

import upshot
from upshot.sdk.config import Config
from upshot.sdk.public_run import PublicRun, RunFile
from upshot.sdk.summary import Summary

#: Functions of wandb 0.31, with their parameters in order.
WANDB = {
    "init": "entity project dir id name notes tags config config_exclude_keys config_include_keys allow_val_change "
    "group job_type mode force reinit resume resume_from fork_from save_code tensorboard sync_tensorboard monitor_gym "
    "settings",
    "login": "key relogin host force timeout verify referrer prompt",
    "log": "data step commit",
    "log_artifact": "artifact_or_path name type aliases tags",
    "use_artifact": "artifact_or_name type aliases use_as",
    "link_artifact": "artifact target_path aliases",
    "log_model": "path name aliases",
    "use_model": "name",
    "link_model": "path registered_model_name name aliases",
    "define_metric": "name step_metric step_sync hidden summary overwrite",
    "save": "glob_str base_path policy glob",
    "alert": "title text level wait_duration",
    "watch": "models criterion log log_freq idx log_graph",
    "unwatch": "models",
    "finish": "exit_code quiet",
    "Run.log_artifact": "self artifact_or_path name type aliases tags",
    "Run.use_artifact": "self artifact_or_name type aliases use_as",
    "Run.link_artifact": "self artifact target_path aliases",
    "Run.log_model": "self path name aliases",
    "Run.use_model": "self name",
    "Run.link_model": "self path registered_model_name name aliases",
    "Run.log": "self data step commit",
    "Run.define_metric": "self name step_metric step_sync hidden summary overwrite",
    "Run.save": "self glob_str base_path policy glob",
    "Run.alert": "self title text level wait_duration",
    "Run.watch": "self models criterion log log_freq idx log_graph",
    "Run.unwatch": "self models",
    "Run.finish": "self exit_code",
    "Table.__init__": "self columns data rows dataframe dtype optional allow_mixed_types log_mode",
    "Table.add_column": "self name data optional",
    "Table.get_column": "self name convert_to",
    "Table.iterrows": "self",
    "Image.__init__": "self data_or_path mode caption grouping classes boxes masks file_type normalize",
    "plot.confusion_matrix": "probs y_true preds class_names title split_table",
    "Artifact.__init__": "self name type description metadata incremental use_as storage_region digest_algorithm",
    "Artifact.add_file": "self local_path name is_tmp skip_cache policy overwrite",
    "Artifact.add_dir": "self local_path name skip_cache policy merge",
    "Artifact.new_file": "self name mode encoding policy",
    "Artifact.add_reference": "self uri name checksum max_objects",
    "Artifact.remove": "self item",
    "Artifact.download": "self root allow_missing_references skip_cache path_prefix multipart",
    "Artifact.verify": "self root",
    "Artifact.file": "self root",
    "Artifact.files": "self names per_page start",
    "Artifact.get_entry": "self name",
    "Artifact.link": "self target_path aliases",
    "Artifact.unlink": "self",
    "Artifact.delete": "self delete_aliases",
    "Artifact.save": "self project settings",
    "Artifact.wait": "self timeout",
    "Api.__init__": "self overrides timeout api_key",
    "Api.artifact": "self name type",
    "Api.artifacts": "self type_name name order per_page tags start",
    "Api.artifact_exists": "self name type",
    "Api.artifact_collection": "self type_name name",
    "Api.artifact_collection_exists": "self name type",
    "Api.registries": "self organization filter order per_page start",
    "Api.registry": "self name organization",
    "Api.run": "self path",
    "Api.runs": "self path filters order per_page include_sweeps lazy",
}


#: The same of the objects that the functions return.
RETURNED = {
    Config: {"update": "self d allow_val_change", "setdefaults": "self d", "as_dict": "self"},
    Summary: {"update": "self d"},
    PublicRun: {
        "history": "self samples keys x_axis pandas stream",
        "scan_history": "self keys page_size min_step max_step use_cache",
        "files": "self names pattern per_page",
        "file": "self name",
        "used_artifacts": "self per_page",
        "logged_artifacts": "self per_page",
        "load": "self force",
    },
    RunFile: {"download": "self root replace exist_ok api"},
}


def parameters_of(function):
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


@pytest.mark.parametrize("name", WANDB)
def test_parameters_are_those_of_wandb(name):
    """The parameters have W&B's names, in W&B's order."""
    function: Any = upshot
    for part in name.split("."):
        function = getattr(function, part)

    assert parameters_of(function) == WANDB[name].split()


@pytest.mark.parametrize("kind", RETURNED, ids=lambda kind: kind.__name__)
def test_parameters_of_what_is_returned(kind):
    """The objects that functions return have W&B's parameters, too."""
    assert {name: parameters_of(getattr(kind, name)) for name in RETURNED[kind]} == {
        name: names.split() for name, names in RETURNED[kind].items()
    }
