"""The contracts of losses, adapters, models, data sources and tasks, for the tests of a package that registers some.

Each ``check_...`` function raises AssertionError with a sentence that says what is not as it must be; none needs
pytest. The suites of this repository run the same checks on all that the packages of this repository register::

    from kd_core.testing import check_loss, check_task, class_labels

    def test_my_loss():
        check_loss("my_loss", {"student": (7,), "teacher": (7,), "target": class_labels(7)})

    def test_my_task(tmp_path):
        check_task("my_task", {"name": "my_data", "root": str(tmp_path)}, MyModel)

One test for each property of a loss, with the property's name in pytest's report::

    @pytest.mark.parametrize("check", LOSS_CHECKS)
    def test_my_loss(check):
        check(LossCase(my_loss, {"student": (7,), "teacher": (7,)}))

A name is looked up in its registry, as a config's is: import what registers it, or install the package with its entry
points. The environment variable ``KD_PLUGINS`` holds the plug-ins of other packages off, see
:class:`kd_core.registry.Registry`.
"""

from kd_core.testing.adapters import ADAPTER_CHECKS, AdapterCase, check_adapter
from kd_core.testing.losses import LOSS_CHECKS, LossCase, check_loss, class_labels
from kd_core.testing.models import MODEL_CHECKS, ModelCase, check_model
from kd_core.testing.tasks import SOURCE_CHECKS, TASK_CHECKS, TaskCase, check_source, check_task

__all__ = [
    "ADAPTER_CHECKS",
    "LOSS_CHECKS",
    "MODEL_CHECKS",
    "SOURCE_CHECKS",
    "TASK_CHECKS",
    "AdapterCase",
    "LossCase",
    "ModelCase",
    "TaskCase",
    "check_adapter",
    "check_loss",
    "check_model",
    "check_source",
    "check_task",
    "class_labels",
]
