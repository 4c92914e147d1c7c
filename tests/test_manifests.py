"""What is deployed: the image's recipe and the Kubernetes base, against each other and against the settings."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
BASE = ROOT / "k8s" / "base"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
UID = 10001
#: The oldest Kubernetes that knows all we use, and the newest one whose schemas are installed.
VERSIONS = ("1.30", "1.37")
#: Time that is left to end the process after the drain.
MARGIN_SECONDS = 20

SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


def _script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def _validate(*files: Path, version: str = VERSIONS[-1]) -> subprocess.CompletedProcess[str]:
    command = [_script("kubernetes-validate"), "--strict", "-k", version, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _resources() -> dict[str, dict[str, Any]]:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    documents = [yaml.safe_load((BASE / name).read_text(encoding="utf-8")) for name in listed]
    return {document["kind"]: document for document in documents}


def _instructions(dockerfile: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", dockerfile))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def _image_environment() -> dict[str, str]:
    final_stage = _instructions(DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :])
    variables = " ".join(rest for word, rest in final_stage if word == "ENV")
    return dict(pair.split("=", 1) for pair in variables.split())


@pytest.fixture
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = _resources()["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


@pytest.fixture
def variables(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def test_every_manifest_is_a_resource_of_the_base() -> None:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))
    on_disk = {path.name for path in BASE.iterdir()} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == on_disk
    assert set(_resources()) == {"Deployment", "Service", "ServiceAccount"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_base_renders_to_what_the_schemas_allow(version: str, tmp_path: Path) -> None:
    rendered = subprocess.run(["kubectl", "kustomize", BASE], capture_output=True, text=True, check=True).stdout
    (tmp_path / "rendered.yaml").write_text(rendered, encoding="utf-8")
    result = _validate(tmp_path / "rendered.yaml", version=version)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list(yaml.safe_load_all(rendered))) == len(_resources())


@pytest.mark.parametrize("version", VERSIONS)
def test_each_manifest_keeps_to_the_schemas(version: str) -> None:
    files = [path for path in BASE.iterdir() if path.name != "kustomization.yaml"]
    result = _validate(*files, version=version)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_schemas_refuse_a_misspelt_field(tmp_path: Path) -> None:
    planted = (BASE / "deployment.yaml").read_text(encoding="utf-8").replace("replicas:", "replica:")
    (tmp_path / "planted.yaml").write_text(planted, encoding="utf-8")
    assert _validate(tmp_path / "planted.yaml").returncode == 1


def test_every_setting_of_the_pod_and_the_image_exists(variables: dict[str, str]) -> None:
    named = {name for name in {**variables, **_image_environment()} if name.startswith(PREFIX)}
    assert {"RM_MODEL", "RM_DTYPE", "RM_HOST", "RM_PORT", "RM_DRAIN_SECONDS"} <= named
    assert named <= SETTINGS


def test_the_settings_of_the_pod_and_the_image_are_accepted(variables: dict[str, str]) -> None:
    together = {**_image_environment(), **variables}
    given = {name.removeprefix(PREFIX).lower(): value for name, value in together.items() if name in SETTINGS}
    settings = Settings.model_validate(given)
    assert settings.host == "0.0.0.0"
    assert settings.dtype == "float32"


def test_the_pod_is_given_time_for_the_longest_request(pod: dict[str, Any], variables: dict[str, str]) -> None:
    delay = float(variables["RM_SHUTDOWN_DELAY_SECONDS"])
    drain = float(variables["RM_DRAIN_SECONDS"])
    assert drain >= float(variables["RM_TIMEOUT_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] >= delay + drain + MARGIN_SECONDS
    assert delay > 0


def test_no_service_can_be_taken_for_a_setting(pod: dict[str, Any]) -> None:
    assert pod["enableServiceLinks"] is False
    assert not _resources()["Service"]["metadata"]["name"].startswith("rm")


def test_ports_probes_and_selectors_fit_together(container: dict[str, Any]) -> None:
    deployment, service = _resources()["Deployment"], _resources()["Service"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == _image_environment()["RM_PORT"]
    assert {one["targetPort"] for one in service["spec"]["ports"]} == {port["name"]}
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()


def test_an_update_never_takes_a_ready_pod_away_first() -> None:
    strategy = _resources()["Deployment"]["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_the_pod_meets_the_restricted_pod_security_standard(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == UID
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    allowed = {
        "persistentVolumeClaim",
        "emptyDir",
        "configMap",
        "secret",
        "projected",
        "csi",
        "ephemeral",
        "downwardAPI",
    }
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= allowed
    assert pod["automountServiceAccountToken"] is False
    assert _resources()["ServiceAccount"]["automountServiceAccountToken"] is False


def test_the_pod_can_write_to_tmp_only(pod: dict[str, Any], container: dict[str, Any]) -> None:
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert [mount["mountPath"] for mount in mounts.values() if not mount.get("readOnly")] == ["/tmp"]
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    caches = {"HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    assert all(_image_environment()[cache].startswith("/tmp/") for cache in caches)


def test_memory_is_limited_and_both_are_requested(container: dict[str, Any]) -> None:
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


def test_the_dockerfile_passes_hadolint() -> None:
    result = subprocess.run([_script("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_image_runs_the_service_as_a_user_without_rights() -> None:
    final_stage = _instructions(DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :])
    last = dict(final_stage)
    assert last["USER"] == f"{UID}:{UID}"
    assert last["ENTRYPOINT"] == '["python", "-m", "service"]'
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert "/livez" in last["HEALTHCHECK"]
    assert f"useradd -u {UID} " in last["RUN"]
    assert {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}.items() <= _image_environment().items()


def test_the_image_is_built_from_the_two_rooms_that_serve() -> None:
    copied = {word for keyword, rest in _instructions(DOCKERFILE) if keyword == "COPY" for word in rest.split()[:-1]}
    assert not any(word.startswith(("training", "tests", "checkpoints", ".")) for word in copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    context = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert {word for word in copied if not word.startswith(("-", "/"))} <= context | {"reward_model/__init__.py"}


def test_every_base_image_can_be_swapped_and_no_buildkit_is_needed() -> None:
    stages = [rest.split()[0] for word, rest in _instructions(DOCKERFILE) if word == "FROM"]
    assert set(stages) == {"${BASE}"}
    assert "<<" not in DOCKERFILE
    assert "--link" not in DOCKERFILE
