"""Whether what pgidle is deployed by is as its readers take it: workflows, Dockerfile, Kubernetes manifests.

Each check is run on the repository, and on a copy with a fault in it that it has to find.
"""

import copy
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml
from kubernetes_validate import SchemaNotFoundError, ValidationError, validate

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "config/kubernetes"
# The first that has native sidecars without a feature gate, and the newest whose schemas are at hand.
KUBERNETES = ["1.29", "1.37"]


def program(name, *arguments):
    """What a checker that pip installed beside this Python says; empty where it finds nothing."""
    ran = subprocess.run([Path(sys.executable).parent / name, *arguments], capture_output=True, text=True)
    said = ran.stdout + ran.stderr
    assert (ran.returncode == 0) == (said.strip() == ""), f"{name}: status {ran.returncode}, {said}"
    return said


def workflows(paths):
    return program("actionlint", "-oneline", "-no-color", *paths)


def dockerfile(path):
    # Debian keeps one version of a package in a release: one that is pinned can be had no more after the next fix.
    return program("hadolint", "--no-color", "--ignore", "DL3008", path)


def documents():
    """The resources by file name, but for kustomization.yaml."""
    files = sorted(MANIFESTS.glob("*.yaml"))
    return {f.name: yaml.safe_load(f.read_text()) for f in files if f.name != "kustomization.yaml"}


def by_schema(resources):
    """What Kubernetes' own schemas have against them; a key that they do not know is an error."""
    complaints = []
    for name, resource in resources.items():
        for version in KUBERNETES:
            try:
                validate(resource, version, strict=True)
            except ValidationError as error:
                complaints.append(f"{name}, Kubernetes {version}: {error.message}")
            except SchemaNotFoundError:
                complaints.append(f"{name}: Kubernetes {version} has no such kind")
    return complaints


def together(base, resources, settings):
    """What does not fit together: the base and its files, names that are referred to, the sidecars."""
    complaints = []

    def expect(fine, complaint):
        if not fine:
            complaints.append(complaint)

    generated = {one["name"]: one["files"] for one in base["configMapGenerator"]}
    expect(sorted(base["resources"]) == sorted(resources), "kustomization.yaml: other resources than there are files")
    for files in generated.values():
        for file in files:
            expect((MANIFESTS / file).exists(), f"kustomization.yaml: {file} does not exist")
    images = {image["name"] for image in base["images"]}
    sidecars = []
    for name, resource in resources.items():
        pod = resource["spec"]["template"]["spec"]
        containers = pod["initContainers"] + pod["containers"]
        for container in containers:
            expect(container["image"] in images, f"{name}: no image {container['image']} in kustomization.yaml")
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            expect(mounted <= {volume["name"] for volume in pod["volumes"]}, f"{name}: mounts no volume {mounted}")
            expect(not container["securityContext"]["allowPrivilegeEscalation"], f"{name}: privileges")
        for volume in pod["volumes"]:
            config = volume.get("configMap")
            expect(config is None or config["name"] in generated, f"{name}: nothing makes {config}")
        [sidecar] = pod["initContainers"]
        sidecars.append(sidecar)
        expect(sidecar["restartPolicy"] == "Always", f"{name}: its init container is no sidecar")
        expect(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0, f"{name}: runs as root")
        expect(resource["kind"] != "Job" or pod["restartPolicy"] == "Never", f"{name}: would not end by itself")
        ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
        expect(settings["http"]["address"].endswith(f":{ports['http']}"), f"{name}: pgidle.toml has another port")
        expect(sidecar["startupProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}, f"{name}: its probe")
        listens = settings["listen"]["addresses"]
        for container in pod["containers"]:
            env = {one["name"]: one.get("value") for one in container["env"]}
            expect(f"{env['PGHOST']}:{env['PGPORT']}" in listens, f"{name}: connects past pgidle")
        mounts = {mount["name"]: mount["mountPath"] for mount in sidecar["volumeMounts"]}
        sockets = {str(Path(address[5:]).parent) for address in listens if address.startswith("unix:")}
        expect(sockets <= set(mounts.values()), f"{name}: nowhere to put {sockets}")
    expect(all(one == sidecars[0] for one in sidecars), "the sidecars differ")
    return complaints


def image(manifests, text):
    """What the image and the manifests have to agree on."""
    complaints = []
    user = re.findall(r"^USER (\d+):\d+$", text, re.M)
    for name, resource in manifests.items():
        if user != [str(resource["spec"]["template"]["spec"]["securityContext"]["runAsUser"])]:
            complaints.append(f"{name}: runs as another user than the image, {user}")
    if not re.search(r'^HEALTHCHECK .*\n    CMD \["pgidle", "health", .*\]$', text, re.M):
        complaints.append("Dockerfile: no HEALTHCHECK by `pgidle health`")
    return complaints


def versions(base, cargo):
    """The image that the base names is the one of this version."""
    version = cargo["package"]["version"]
    tags = {one["name"]: one["newTag"] for one in base["images"]}
    return [] if tags["pgidle"] == version else [f"kustomization.yaml: image {tags['pgidle']}, and this is {version}"]


def finds(check, *faulty):
    complaints = check(*faulty)
    assert complaints, f"{check.__name__} finds nothing wrong with {faulty}"


def changed(value, *path, to):
    value = copy.deepcopy(value)
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return value


def planted(base, resources, settings, cargo):
    """Faults that have to be found."""
    pod = ("deployment.yaml", "spec", "template", "spec")
    sidecar = (*pod, "initContainers", 0)
    for path, to in [
        ((*sidecar, "restartPolcy"), "Always"),
        ((*sidecar, "startupProbe", "httpGet", "port"), None),
        ((*pod, "containers", 0, "image"), 7),
        (("job.yaml", "spec", "backoffLimit"), "none"),
        (("job.yaml", "kind"), "Deployment"),
    ]:
        finds(by_schema, changed(resources, *path, to=to))
    for path, to in [
        ((*sidecar, "restartPolicy"), "OnFailure"),
        ((*sidecar, "image"), "pgidel"),
        ((*sidecar, "ports", 0, "containerPort"), 9188),
        ((*sidecar, "startupProbe", "httpGet", "path"), "/ready"),
        ((*sidecar, "volumeMounts", 0, "name"), "config"),
        ((*pod, "volumes", 0, "configMap", "name"), "pgidel"),
        ((*pod, "containers", 0, "env", 1, "value"), "5432"),
        ((*pod, "securityContext", "runAsUser"), 0),
        (("job.yaml", "spec", "template", "spec", "restartPolicy"), "OnFailure"),
        (("extra.yaml",), resources["job.yaml"]),
    ]:
        finds(together, base, changed(resources, *path, to=to), settings)
    finds(together, changed(base, "configMapGenerator", 0, "files", to=["none.toml"]), resources, settings)
    finds(image, resources, "FROM scratch\nUSER root\n")
    finds(versions, changed(base, "images", 0, "newTag", to="0.0.0"), cargo)
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder, "workflow.yml")
        broken.write_text("on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n      - run: ${{ githb.ref }}\n")
        finds(workflows, [broken])
        broken = Path(folder, "Dockerfile")
        broken.write_text("FROM debian\nRUN cd /tmp && apt-get install vim\n")
        finds(dockerfile, broken)


def main():
    base = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    settings = tomllib.loads((MANIFESTS / "pgidle.toml").read_text())
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    resources = documents()
    text = (ROOT / "Dockerfile").read_text()
    complaints = [
        *workflows(sorted((ROOT / ".github/workflows").glob("*.yml"))).splitlines(),
        *dockerfile(ROOT / "Dockerfile").splitlines(),
        *by_schema(resources),
        *together(base, resources, settings),
        *image(resources, text),
        *versions(base, cargo),
    ]
    planted(base, resources, settings, cargo)
    print("\n".join(complaints) or f"workflows, Dockerfile and {len(resources)} manifests are as they should be")
    return 1 if complaints else 0


sys.exit(main())
