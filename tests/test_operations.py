"""The files under serving/: they parse as what reads them, agree with one another, and the smoke test passes."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.request

import pytest
from serving_clients import free_ports
from trained import ROOT, command, run_module

from longretriever_tf.retrieval.sharding.shards_file import local_places, read_places, shard_dir
from longretriever_tf.serving.server import config_files
from longretriever_tf.serving.server.options import ServerOptions
from longretriever_tf.serving.server.warmup import replay

SERVING = ROOT / "serving"
_SHARDED_KINDS = ("StatefulSet", "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler")
KUBERNETES = "1.31"
METRICS_PATH = "/monitoring/prometheus/metrics"


def test_models_config_names_the_labels():
    (model,) = config_files.read_models(str(SERVING / "models.config")).model_config_list.config
    assert (model.name, model.base_path) == ("longretriever", "/models/longretriever")
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}
    assert model.model_version_policy.WhichOneof("policy_choice") == "all"


def test_monitoring_parses():
    assert config_files.read_monitoring(str(SERVING / "monitoring.config")) == METRICS_PATH


def test_kubernetes_manifest_agrees_with_itself():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    config, deployment, service, budget, scaler = yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text())
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == METRICS_PATH
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"] == budget["spec"]["selector"] == {"matchLabels": labels}
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"] and scaler["spec"]["minReplicas"] > budget["spec"]["minAvailable"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {arg.split("=")[1].rsplit("/", 1)[1] for arg in container["args"] if "/config/" in arg} == set(
        config["data"]
    )


def test_the_kubernetes_configs_parse(tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    config = next(yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text()))["data"]
    for name, text in config.items():
        (tmp_path / name).write_text(text)
    (model,) = config_files.read_models(str(tmp_path / "models.config")).model_config_list.config
    assert model.base_path == "/models/longretriever"
    assert config_files.read_monitoring(str(tmp_path / "monitoring.config")) == METRICS_PATH


def test_the_sharded_manifest_agrees_with_the_exported_layout(tmp_path):
    """Names, ports, labels and paths of router and shards, against what `export --category_shards=4` writes."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    config, *parts = yaml.safe_load_all((SERVING / "kubernetes-sharded.yaml").read_text())
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    places, written = read_places(str(tmp_path / "shards.json")), local_places(4)
    assert [one.model for one in places.shards] == [one.model for one in written.shards]
    assert places.router.model == written.router.model
    kinds = {kind: {one["metadata"]["name"]: one for one in parts if one["kind"] == kind} for kind in _SHARDED_KINDS}
    everyone = {places.router.address, *(one.address for one in places.shards)}
    assert {f"{name}:{service['spec']['ports'][0]['port']}" for name, service in kinds["Service"].items()} == everyone
    workloads = kinds["StatefulSet"] | kinds["Deployment"]
    assert workloads.keys() == kinds["Service"].keys() == kinds["PodDisruptionBudget"].keys()
    flags = {f"--{field.name}" for field in dataclasses.fields(ServerOptions)} | {"--model_name", "--model_base_path"}
    for name, workload in workloads.items():
        spec, pod = workload["spec"], workload["spec"]["template"]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        scaler = kinds["HorizontalPodAutoscaler"].get(name, {"spec": {}})["spec"]
        replicas = spec.get("replicas", scaler.get("minReplicas", 1))
        assert replicas > kinds["PodDisruptionBudget"][name]["spec"]["minAvailable"]
        for selector in (spec["selector"], kinds["PodDisruptionBudget"][name]["spec"]["selector"]):
            assert selector["matchLabels"] == labels
        assert kinds["Service"][name]["spec"]["selector"] == labels
        (container,) = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert {f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}"} <= set(container["args"])
        assert {port["targetPort"] for port in kinds["Service"][name]["spec"]["ports"]} == set(ports)
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
        assert {arg.split("=")[0] for arg in container["args"]} <= flags
        model = "longretriever" if name == places.router.model else name
        assert container["readinessProbe"]["httpGet"]["path"] == f"/v1/models/{model}"
        file = next(arg.rsplit("/", 1)[1] for arg in container["args"] if "/config/" in arg)
        assert file in config["data"] and mounts["models"]["mountPath"] == f"/models/{mounts['models']['subPath']}"
    for number, one in enumerate(places.shards):
        (model,) = config_files.read_models(str(tmp_path / f"shard-{number}.config")).model_config_list.config
        mount = kinds["StatefulSet"][one.model]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0]
        assert (model.name, model.base_path) == (one.model, mount["mountPath"])
        assert mount["subPath"] == shard_dir(number)
        # While the next version loads, router and shards keep the last one together.
        assert model.model_version_policy.latest.num_versions == 2
        assert kinds["StatefulSet"][one.model]["spec"]["serviceName"] == one.model


MANIFESTS = ("kubernetes.yaml", "kubernetes-sharded.yaml", "kubernetes-fill.yaml")


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_fit_the_schemas_of_kubernetes(name):
    """Strictly: a misspelt key is an error. The schemas lie within the package."""
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate, of the extra dev")
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    parts = list(yaml.safe_load_all((SERVING / name).read_text()))
    for part in parts:
        validate.validate(part, KUBERNETES, strict=True)
    parts[-1]["spec"]["no_such_key"] = 1
    with pytest.raises(validate.ValidationError):
        validate.validate(parts[-1], KUBERNETES, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_have_no_rights(name):
    """Every container of every workload: no root, no writing but to volumes, no privileges, no token of the cluster."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    pods = [
        one["spec"]["template"]["spec"] for one in yaml.safe_load_all((SERVING / name).read_text()) if _has_pod(one)
    ]
    assert len(pods) == {"kubernetes-sharded.yaml": 5}.get(name, 1)
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] > 0 and security["fsGroup"] == security["runAsGroup"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def _has_pod(part: dict) -> bool:
    return "template" in part.get("spec", {})


def test_the_volume_is_filled_whole_or_not_at_all(tmp_path):
    """The Job's own script, with a stand-in for rclone that copies folders, and may stop halfway."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    claim, job = yaml.safe_load_all((SERVING / "kubernetes-fill.yaml").read_text())
    (volume, _) = job["spec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    store, models, tools = (tmp_path / name for name in ("store", "models", "tools"))
    (store / "3/variables").mkdir(parents=True)
    (store / "3/saved_model.pb").write_text("model")
    (store / "3/variables/data").write_text("weights")
    (store / "4").mkdir()
    tools.mkdir()
    (tools / "rclone").write_text(
        '#!/bin/sh\nif [ "$1" = sync ]; then mkdir -p "$3" && cp -r "$2/." "$3/"; else diff -r "$3" "$4"; fi\n'
        'if [ -e "$HOME/stop" ]; then exit 9; fi\n'
    )
    (tools / "rclone").chmod(0o755)

    def fill(version: str) -> subprocess.CompletedProcess:
        given = {one["name"]: one.get("value", "") for one in container["env"]}
        assert given.keys() == {"VERSION", "SOURCE", "TARGET", "HOME"}
        given |= {"VERSION": version, "SOURCE": str(store), "TARGET": str(models), "HOME": str(tmp_path)}
        given["PATH"] = f"{tools}:{os.environ['PATH']}"
        return subprocess.run(
            [*container["command"], *container["args"]], env=given, capture_output=True, text=True, timeout=60
        )

    (tmp_path / "stop").touch()
    assert fill("3").returncode == 9 and [path.name for path in models.iterdir()] == [".3.filling"]
    (tmp_path / "stop").unlink()
    done = fill("3")
    assert done.returncode == 0 and done.stdout.endswith(f"filled {models}/3\n"), done.stderr
    assert [path.name for path in models.iterdir()] == ["3"] and (models / "3/variables/data").read_text() == "weights"
    (models / "3/variables/data").write_text("ours")
    assert "there already" in fill("3").stdout and (models / "3/variables/data").read_text() == "ours"
    refused = fill("4")
    assert refused.returncode == 1 and "no export" in refused.stdout and not (models / "4").exists()


def test_compose_mounts_what_it_names():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    services = yaml.safe_load((SERVING / "docker-compose.yml").read_text())["services"]
    assert set(services) == {"tensorflow-serving", "scann"}
    for service in services.values():
        assert service["ports"] == ["8500:8500", "8501:8501"]
        for volume in service["volumes"][1:]:
            assert (SERVING / volume.split(":")[0]).is_file()
    assert (ROOT / services["scann"]["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.tensorflow-serving"])
def test_dockerfiles_copy_files_that_exist(name):
    text = (SERVING / name).read_text().replace("\\\n", " ")
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    missing = [word for word in copied if not word.startswith("$") and not (ROOT / word).exists()]
    assert copied and not missing
    assert json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.M)[1])


def test_flags_of_the_images_are_flags_of_the_server():
    text = (SERVING / "Dockerfile").read_text().replace("\\\n", " ")
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.M)[1])
    help_text = run_module("serve", "--help").stdout
    for flag in entry[3:]:
        assert re.search(rf"--(\[no\])?{flag.lstrip('-').split('=')[0]}\b", help_text), flag


def test_the_warm_up_file_is_replayed_and_compared(trained):
    done = replay(f"{trained.export_dir}/1")
    assert [row.signature for row in done[:4]] == ["fingerprint", *["serving_default"] * 3]
    assert {row.signature for row in done} == {
        "serving_default",
        "top_k",
        "interests",
        "interest_embeddings",
        "retrieve_in_category",
        "user_embeddings",
        "item_embeddings",
        "fingerprint",
    }
    assert [row.signature for row in done if not row.is_compared] == ["top_k"]  # it has no seed


@contextlib.contextmanager
def served(trained, directory: pathlib.Path):
    """`serve` by command, with the files of serving/ on this machine's paths; yields its URL."""
    config = directory / "models.config"
    text = (SERVING / "models.config").read_text().replace("/models/longretriever", trained.export_dir)
    config.write_text(text)
    (port,) = free_ports(1)
    flags = (
        "--port=0",
        f"--rest_api_port={port}",
        f"--model_config_file={config}",
        f"--monitoring_config_file={SERVING}/monitoring.config",
    )
    log = (directory / "serve.log").open("w")
    child = subprocess.Popen(command("serve", *flags), cwd=ROOT, stdout=log, stderr=log)
    try:
        yield wait_for(f"http://127.0.0.1:{port}", child, directory / "serve.log")
    finally:
        child.terminate()
        assert child.wait(300) == 0
        log.close()


def wait_for(url: str, child: subprocess.Popen, log: pathlib.Path) -> str:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        assert child.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/v1/models/longretriever", timeout=60):
            return url
        time.sleep(0.2)
    return pytest.fail(f"no server: {log.read_text()}")


@pytest.mark.serving
def test_smoke_test_passes_and_fails(trained, tmp_path):
    for tool in ("curl", "jq"):
        if shutil.which(tool) is None:
            pytest.skip(f"serving/smoke_test.sh needs {tool}, which is not installed")
    script = str(SERVING / "smoke_test.sh")
    with served(trained, tmp_path) as url:
        done = subprocess.run([script, url], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("ok ") >= 10 and "all is well" in done.stdout
        wrong = subprocess.run([script, url, "nobody"], capture_output=True, text=True, timeout=900)
        assert wrong.returncode == 1 and "FAIL  status: HTTP 404, expected 200" in wrong.stderr
        with urllib.request.urlopen(url + METRICS_PATH, timeout=300) as page:
            assert b":tensorflow:serving:request_count" in page.read()
    nobody = subprocess.run([script, "http://127.0.0.1:9"], capture_output=True, text=True, timeout=300)
    assert nobody.returncode == 1 and "no answer from http://127.0.0.1:9" in nobody.stderr
