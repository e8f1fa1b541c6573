"""Kubernetes' manifests and the rendered Helm chart against Kubernetes' schemas, and what has to hold across files."""

import json
import pathlib
import re
import sys

import helm_python
import kubernetes_validate
import yaml

VERSION = "1.31"
DOCKER = pathlib.Path(__file__).resolve().parent.parent
CHART = str(DOCKER / "helm" / "hats-worker")
# Has no schema in Kubernetes itself.
FOREIGN = {"ServiceMonitor"}

failures = 0


def check(holds, what):
    global failures
    print(("ok      " if holds else "FAILED  ") + what)
    failures += not holds


def manifests(text):
    return [document for document in yaml.safe_load_all(text) if document]


def validate(name, documents):
    for document in documents:
        title = f"{name}: {document['kind']} {document['metadata']['name']}"
        if document["kind"] in FOREIGN:
            check("spec" in document, title + " (not checked against a schema)")
            continue
        try:
            kubernetes_validate.validate(document, VERSION, strict=True)
            check(True, title)
        except Exception as error:  # Each library error has a class of its own.
            check(False, f"{title}: {error}")


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def promises(name, documents):
    """What README and the comments say of a set of manifests."""
    pod = of_kind(documents, "Deployment")[0]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    config = of_kind(documents, "ConfigMap")[0]["data"]
    drain = int(config["HATS_DRAIN_TIMEOUT"].removesuffix("s"))
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    check(grace >= drain + 10, f"{name}: {grace} s of grace are longer than a drain of {drain} s")
    check(container["livenessProbe"]["httpGet"]["path"] == "/livez", f"{name}: liveness is the process only")
    check(container["readinessProbe"]["httpGet"]["path"] == "/readyz", f"{name}: readiness is more")
    check(container["securityContext"]["readOnlyRootFilesystem"], f"{name}: the root file system is read-only")
    check(pod["spec"]["securityContext"]["runAsNonRoot"], f"{name}: not root")
    check("cpu" not in container["resources"]["limits"], f"{name}: no limit of CPU")
    selectors = [d["spec"]["selector"] for d in of_kind(documents, "Service")]
    selectors += [d["spec"]["selector"]["matchLabels"] for d in of_kind(documents, "PodDisruptionBudget")]
    labels = pod["metadata"]["labels"].items()
    check(all(s.items() <= labels for s in selectors), f"{name}: services and budgets select the pods")
    ports = {port["name"] for port in container["ports"]}
    targets = {port["targetPort"] for d in of_kind(documents, "Service") for port in d["spec"]["ports"]}
    check(targets <= ports, f"{name}: services name ports that there are")
    check(not of_kind(documents, "Secret"), f"{name}: no secret is baked in")


def render(values):
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(values=values, name="demo", namespace="tasks")
    texts = rendered.values() if isinstance(rendered, dict) else [rendered]
    return [document for text in texts for document in manifests(text)]


plain = manifests((DOCKER / "kubernetes.yaml").read_text())
validate("kubernetes.yaml", plain)
promises("kubernetes.yaml", plain)

everything = {
    "redis": {"address": "rediss://redis:6380", "existingSecret": "redis"},
    "settings": {"lease-seconds": 7, "deny-net": "private", "http-fence": True},
    "drainSeconds": 60,
    "autoscaling": {"threads": 500},
    "serviceMonitor": {"enabled": True},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "nodeSelector": {"disk": "ssd"},
    "imagePullSecrets": [{"name": "registry"}],
}
bare = {
    "redis": {"address": "redis:6379"},
    "host": False,
    "autoscaling": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
}
for name, values in [("helm", {"redis": {"address": "redis:6379"}}), ("helm, all set", everything), ("helm, bare", bare)]:
    documents = render(values)
    validate(name, documents)
    promises(name, documents)
settings = of_kind(render(everything), "ConfigMap")[0]["data"]
check(settings["HATS_LEASE_SECONDS"] == "7" and settings["HATS_HTTP_FENCE"] == "true", "helm: settings become variables")
check(of_kind(render(bare), "Deployment")[0]["spec"]["replicas"] == 3, "helm: replicas without autoscaling")
for values, what in [
    ({}, "an address is required"),
    ({"redis": {"address": "redis://:secret@redis:6379"}}, "a password in the address is refused"),
    ({"redis": {"address": "redis:6379"}, "settings": {"redis-password": "x"}}, "a password in settings is refused"),
]:
    try:
        render(values)
        check(False, f"helm: {what}")
    except Exception as error:
        check("secret@" not in str(error), f"helm: {what}: {str(error).splitlines()[0][:100]}")

# What panels and rules ask for is what workers say.
names = re.compile(r"\bhats_[a-z_]+")
sources = DOCKER.parent / "crates"
known = {name for file in sources.rglob("*.rs") for name in names.findall(file.read_text())}
for file in ["alerts.yml", "grafana/dashboard.json", "kubernetes.yaml", "helm/hats-worker/templates/scaling.yaml"]:
    asked = {re.sub("_(bucket|sum|count)$", "", name) for name in names.findall((DOCKER / file).read_text())}
    check(asked <= known, f"{file} asks for metrics that there are" + "".join(f" (not {n})" for n in sorted(asked - known)))
dashboard = json.loads((DOCKER / "grafana" / "dashboard.json").read_text())
ids = [panel["id"] for panel in dashboard["panels"]]
check(len(ids) == len(set(ids)), "dashboard.json: ids of panels are unique")

compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
exposed = [port for service in compose.values() for port in service.get("ports", [])]
check(all(port.startswith("127.0.0.1:") for port in exposed), "compose.yaml: nothing is exposed beyond loopback")
for name, service in compose.items():
    check("healthcheck" in service, f"compose.yaml: {name} has a health check")

sys.exit(1 if failures else 0)
