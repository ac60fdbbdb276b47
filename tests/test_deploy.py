"""The manifests say what the code does: names, flags, ports, attributes, versions and powers."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import csi_oras
from csi_oras.app import DEFAULT_DRIVER_NAME, DEFAULT_STATE_DIR, Application
from csi_oras.cli.mounter import mounter as mounter_command
from csi_oras.cli.serve import serve
from csi_oras.config import Policy, parse
from csi_oras.csi import controller
from csi_oras.endpoint import socket_path
from csi_oras.errors import AccessDeniedError
from csi_oras.in_force import write_back_rules
from csi_oras.oci.reference import Reference
from csi_oras.registry import credentials
from csi_oras.registry.hosts_dirs import HostsDirectories
from csi_oras.telemetry.secrets import Secret
from csi_oras.transfer import labels
from csi_oras.volume import attributes
from csi_oras.volume.templates import claim_variables, pod_variables
from tests.support import workflow

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "deploy" / "daemonset"
EXAMPLES = sorted((BASE / "examples").glob("*.yaml"))
POD = {f"csi.storage.k8s.io/pod.{key}": "x" for key in ("name", "namespace", "uid")}
CLAIM = {f"csi.storage.k8s.io/{key}": "x" for key in ("pvc/name", "pvc/namespace", "pv/name")}

Object = dict[str, Any]


def read(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


KUSTOMIZATION = read(BASE / "kustomization.yaml")[0]
OBJECTS = [found for name in KUSTOMIZATION["resources"] for found in read(BASE / name)]


def of_kind(kind: str, objects: list[Object] = OBJECTS) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


WORKLOADS = {
    found["metadata"]["labels"]["app.kubernetes.io/component"]: found
    for found in of_kind("DaemonSet") + of_kind("Deployment")
}


def pod_of(component: str) -> Object:
    spec: Object = WORKLOADS[component]["spec"]["template"]["spec"]
    return spec


def containers(component: str) -> dict[str, Object]:
    return {container["name"]: container for container in pod_of(component)["containers"]}


def flag(container: Object, name: str) -> str:
    (value,) = [item.removeprefix(f"--{name}=") for item in container["args"] if item.startswith(f"--{name}=")]
    return str(value)


def host_paths(component: str = "node") -> dict[str, str]:
    volumes = pod_of(component)["volumes"]
    return {volume["name"]: volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume}


def mounted(container: Object) -> dict[str, Object]:
    return {mount["name"]: mount for mount in container["volumeMounts"]}


ALL_CONTAINERS = {
    f"{component}-{name}": container for component in WORKLOADS for name, container in containers(component).items()
}
DRIVERS = ("node", "controller")
EACH_DRIVER = pytest.mark.parametrize("component", DRIVERS)
EACH_WORKLOAD = pytest.mark.parametrize("component", WORKLOADS)


def test_kustomization_names_every_manifest_beside_it() -> None:
    named = {*KUSTOMIZATION["resources"], *KUSTOMIZATION["configMapGenerator"][0]["files"], "kustomization.yaml"}
    assert named == {path.name for path in BASE.glob("*.yaml")}


@EACH_DRIVER
def test_driver_arguments_are_understood_by_serve(component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    container = containers(component)["csi-oras"]
    for variable in container.get("env", []):
        monkeypatch.setenv(variable["name"], "node-1")
    command, *arguments = container["args"]
    settings = serve.make_context(command, arguments).params
    assert command == serve.name
    assert settings["mode"] == component
    assert settings["node_id"] == {"node": "node-1", "controller": ""}[component]
    assert settings["state_dir"] == DEFAULT_STATE_DIR
    assert str(settings["config_file"]) == f"{mounted(container)['policy']['mountPath']}/policy.yaml"


def test_driver_name_is_the_same_everywhere() -> None:
    names = [found["metadata"]["name"] for found in of_kind("CSIDriver")]
    names += [flag(containers(component)["csi-oras"], "driver-name") for component in DRIVERS]
    names += [Path(host_paths()["plugin"]).name]
    for objects in (OBJECTS, *map(read, EXAMPLES)):
        names += [found["provisioner"] for found in of_kind("StorageClass", objects)]
        names += [found["spec"]["csi"]["driver"] for found in of_kind("PersistentVolume", objects)]
        names += [volume["csi"]["driver"] for volume in inline_volumes(objects)]
    assert len(names) > 8
    assert set(names) == {DEFAULT_DRIVER_NAME}


@EACH_DRIVER
def test_sidecars_connect_to_the_socket_of_the_driver(component: str) -> None:
    driver, *sidecars = containers(component).values()
    for sidecar in sidecars:
        assert f"unix://{flag(sidecar, 'csi-address')}" == flag(driver, "endpoint")
        assert {mount["mountPath"] for mount in sidecar["volumeMounts"]} >= {"/csi"}


def test_kubelet_paths_are_those_of_the_host() -> None:
    driver, paths = containers("node")["csi-oras"], host_paths()
    kubelet = flag(driver, "kubelet-dir")
    registration = flag(containers("node")["node-driver-registrar"], "kubelet-registration-path")
    assert registration == f"{paths['plugin']}/{Path(flag(driver, 'endpoint')).name}"
    assert paths["registration"] == f"{kubelet}/plugins_registry"
    assert paths["pods"] == f"{kubelet}/pods" == mounted(driver)["pods"]["mountPath"]
    assert paths["state"] == flag(driver, "state-dir") == mounted(driver)["state"]["mountPath"]


def test_ports_are_those_that_are_listened_on_and_all_different() -> None:
    seen: list[int] = []
    listened = {
        ("node", "metrics"): flag(containers("node")["csi-oras"], "metrics-address"),
        ("node", "healthz"): flag(containers("node")["livenessprobe"], "http-endpoint"),
        ("node", "registration"): flag(containers("node")["node-driver-registrar"], "http-endpoint"),
        ("controller", "metrics"): flag(containers("controller")["csi-oras"], "metrics-address"),
        ("controller", "leader"): flag(containers("controller")["csi-provisioner"], "http-endpoint"),
    }
    for component in DRIVERS:
        found = list(containers(component).values())
        ports = {port["name"]: port["containerPort"] for container in found for port in container.get("ports", [])}
        for name, port in ports.items():
            assert listened[component, name].rpartition(":")[2] == str(port)
        annotations = WORKLOADS[component]["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(ports["metrics"])
        probes = [container[key] for container in found for key in container if key.endswith("Probe")]
        assert {probe["httpGet"]["port"] for probe in probes} <= set(ports)
        seen += ports.values()
    assert len(seen) == len(set(seen)) == len(listened)


def test_csidriver_is_as_the_driver_needs_it() -> None:
    (found,) = of_kind("CSIDriver")
    assert found["spec"] == {
        "attachRequired": False,
        "podInfoOnMount": True,
        "volumeLifecycleModes": ["Persistent", "Ephemeral"],
        "fsGroupPolicy": "None",
        "storageCapacity": False,
        "requiresRepublish": False,
        "seLinuxMount": False,
    }


def test_daemonset_never_runs_two_drivers_on_a_node() -> None:
    update = WORKLOADS["node"]["spec"]["updateStrategy"]["rollingUpdate"]
    assert update["maxSurge"] == 0
    assert update["maxUnavailable"]


def test_driver_finds_the_mounter_and_the_mounter_the_plans_of_the_driver(tmp_path: Path) -> None:
    driver, mounter = containers("node")["csi-oras"], containers("mounter")["mounter"]
    command, *arguments = mounter["args"]
    settings = mounter_command.make_context(command, arguments).params
    assert command == mounter_command.name
    assert settings["endpoint"] == flag(driver, "mounter")
    assert str(settings["state_dir"]) == flag(driver, "state-dir")
    socket, theirs, ours = socket_path(settings["endpoint"]).parent, host_paths("mounter"), host_paths()
    assert str(socket) == theirs["socket"] == ours["mounter"] == mounted(mounter)["socket"]["mountPath"]
    assert mounted(driver)["mounter"]["mountPath"] == str(socket)
    app = Application(tmp_path, Policy())
    try:
        plans = app.lazy_trees(lambda *_: None).kept.socket.parent.relative_to(tmp_path)
    finally:
        app.close()
    assert theirs["plans"] == f"{ours['state']}/{plans}" == mounted(mounter)["plans"]["mountPath"]


def test_mounter_is_wherever_the_driver_is_and_replaced_by_hand_alone() -> None:
    assert WORKLOADS["mounter"]["spec"]["updateStrategy"] == {"type": "OnDelete"}
    for key in ("nodeSelector", "tolerations", "priorityClassName"):
        assert pod_of("mounter")[key] == pod_of("node")[key]


def test_mounter_that_is_deleted_with_the_driver_outlives_it() -> None:
    _, seconds = containers("mounter")["mounter"]["lifecycle"]["preStop"]["exec"]["command"]
    assert 5 < int(seconds) < pod_of("mounter")["terminationGracePeriodSeconds"]


def test_mounter_has_no_device_no_store_and_nothing_that_restarts_it() -> None:
    (container,) = containers("mounter").values()
    assert set(mounted(container)) == set(host_paths("mounter")) == {"socket", "plans"}
    assert mounted(container)["plans"]["readOnly"] is True
    assert not [key for key in container if key.endswith("Probe")]
    assert pod_of("mounter")["serviceAccountName"] not in [b["subjects"][0]["name"] for b in bindings()]


def test_provisioner_waits_longer_than_the_driver_for_a_registry() -> None:
    provisioner = containers("controller")["csi-provisioner"]
    assert int(flag(provisioner, "timeout").removesuffix("s")) > controller._PATIENCE_SECONDS
    assert {"--extra-create-metadata", "--leader-election"} <= set(provisioner["args"])


def policy_keys(kind: type) -> dict[str, Any]:
    """The keys of a section, with those of its sections."""
    fields = dataclasses.fields(kind)
    nested = {item.metadata["key"]: item.default for item in fields}
    return {key: policy_keys(type(d)) if dataclasses.is_dataclass(d) else None for key, d in nested.items()}


def test_policy_file_holds_every_key_with_its_default() -> None:
    def keys(value: Any) -> Any:
        return {key: keys(item) for key, item in value.items()} if isinstance(value, dict) else None

    text = (BASE / "policy.yaml").read_text()
    assert parse(text, "policy.yaml") == Policy()
    assert keys(yaml.safe_load(text)) == policy_keys(Policy)


def inline_volumes(objects: list[Object]) -> list[Object]:
    return [volume for pod in of_kind("Pod", objects) for volume in pod["spec"]["volumes"] if "csi" in volume]


def attribute_maps(objects: list[Object]) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Every map of attributes with the variables that it may use."""
    found = [(volume["csi"]["volumeAttributes"], pod_variables(POD)) for volume in inline_volumes(objects)]
    found += [(v["spec"]["csi"]["volumeAttributes"], {}) for v in of_kind("PersistentVolume", objects)]
    return found + [(c["parameters"], claim_variables(CLAIM)) for c in of_kind("StorageClass", objects)]


@pytest.mark.parametrize("path", [*EXAMPLES, BASE / "storageclass.yaml"], ids=lambda path: path.stem)
def test_attributes_of_an_example_are_understood(path: Path) -> None:
    found = attribute_maps(read(path))
    assert found
    for values, variables in found:
        assert attributes.parse(values, variables).reference


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_volumes_of_an_example_are_asked_for_read_only(path: Path) -> None:
    objects = read(path)
    for volume in [v for pod in of_kind("Pod", objects) for v in pod["spec"]["volumes"]]:
        assert (volume.get("csi") or volume["persistentVolumeClaim"])["readOnly"] is True
    for claim in of_kind("PersistentVolumeClaim", objects) + of_kind("PersistentVolume", objects):
        assert claim["spec"]["accessModes"] == ["ReadOnlyMany"]


def test_secret_of_the_example_is_a_credential() -> None:
    objects = read(BASE / "examples" / "private.yaml")
    (secret,) = of_kind("Secret", objects)
    values = {key: Secret(value) for key, value in secret["stringData"].items()}
    for mapping, variables in attribute_maps(objects):
        found = credentials.from_secret(values, attributes.parse(mapping, variables).reference.repository)
        assert found is not None
        assert found.username == "example-user"


@EACH_WORKLOAD
def test_image_has_the_version_of_the_project(component: str) -> None:
    own, *others = [container["image"] for container in containers(component).values()]
    assert own == f"ghcr.io/csi-oras/csi-oras:{csi_oras.__version__}"
    for image in others:
        assert re.fullmatch(r"registry\.k8s\.io/sig-storage/[a-z-]+:v\d+\.\d+\.\d+", image)


def test_only_the_container_that_mounts_is_privileged() -> None:
    privileged = [c for c in ALL_CONTAINERS.values() if c["securityContext"].get("privileged")]
    propagating = [
        c for c in ALL_CONTAINERS.values() if any("mountPropagation" in mount for mount in c["volumeMounts"])
    ]
    assert privileged == propagating == [containers("node")["csi-oras"]]
    assert mounted(privileged[0])["pods"]["mountPropagation"] == "Bidirectional"


@pytest.mark.parametrize("container", ALL_CONTAINERS.values(), ids=ALL_CONTAINERS)
def test_container_has_no_power_that_it_does_not_need(container: Object) -> None:
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert {"requests", "limits"} == set(container["resources"])
    if not security.get("privileged"):
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["allowPrivilegeEscalation"] is False


@EACH_WORKLOAD
def test_pod_shares_nothing_with_its_node_that_it_does_not_need(component: str) -> None:
    pod = pod_of(component)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    if component == "controller":
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert set(host_paths(component)) == {"hosts"}
        assert mounted(containers(component)["csi-oras"])["hosts"]["readOnly"] is True


def test_only_the_provisioner_and_the_driver_of_a_node_have_a_token() -> None:
    assert all(account["automountServiceAccountToken"] is False for account in of_kind("ServiceAccount"))
    assert all(pod_of(component)["automountServiceAccountToken"] is False for component in WORKLOADS)
    projected = {(name, v["name"]) for name in WORKLOADS for v in pod_of(name)["volumes"] if "projected" in v}
    assert projected == {("node", "token"), ("controller", "token")}
    for component, name in (("node", "csi-oras"), ("controller", "csi-provisioner")):
        assert [n for n, c in containers(component).items() if "token" in mounted(c)] == [name]


def test_token_of_the_node_is_where_the_driver_looks_for_it() -> None:
    driver = containers("node")["csi-oras"]
    (directory,) = (option.default for option in serve.params if option.name == "service_account_dir")
    assert mounted(driver)["token"]["mountPath"] == str(directory)
    (sources,) = (v["projected"]["sources"] for v in pod_of("node")["volumes"] if v["name"] == "token")
    items = [item for source in sources for part in source.values() for item in part.get("items", [part])]
    assert {item["path"] for item in items} == {"token", "ca.crt", "namespace"}


def test_node_may_create_events_and_nothing_else() -> None:
    account = pod_of("node")["serviceAccountName"]
    bound = [b["roleRef"]["name"] for b in bindings() if b["subjects"][0]["name"] == account]
    rules = [role["rules"] for role in of_kind("ClusterRole") if role["metadata"]["name"] in bound]
    assert rules == [[{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]]


def test_roles_allow_nothing_to_spare() -> None:
    rules = [rule for kind in ("ClusterRole", "Role") for role in of_kind(kind) for rule in role["rules"]]
    assert rules
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"secrets", "nodes", "pods"} & set(rule["resources"])
    changing = [r for r in rules if {"update", "delete", "patch"} & set(r["verbs"])]
    assert {name for r in changing for name in r["resources"]} == {"persistentvolumes", "events", "leases"}
    (lease,) = [r["resourceNames"] for r in rules if "update" in r["verbs"]]
    assert lease == [DEFAULT_DRIVER_NAME.replace(".", "-")]


def bindings() -> list[Object]:
    return of_kind("ClusterRoleBinding") + of_kind("RoleBinding")


def test_role_is_bound_to_the_account_of_its_name_alone() -> None:
    accounts = {pod_of(component)["serviceAccountName"] for component in DRIVERS}
    assert {binding["roleRef"]["name"] for binding in bindings()} == accounts
    for binding in bindings():
        assert [subject["name"] for subject in binding["subjects"]] == [binding["roleRef"]["name"]]
        kind = binding["roleRef"]["kind"]
        assert binding["roleRef"]["name"] in [role["metadata"]["name"] for role in of_kind(kind)]


def test_role_of_the_example_is_for_its_secret_alone() -> None:
    objects = read(BASE / "examples" / "private.yaml")
    (secret,), (role,) = of_kind("Secret", objects), of_kind("Role", objects)
    (rule,) = role["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == ([secret["metadata"]["name"]], ["get"])


# -- the component that labels nodes

COMPONENT = BASE / "components" / "node-labels"
LABELS = read(COMPONENT / "kustomization.yaml")[0]
LABELLING = [found for name in LABELS["resources"] for found in read(COMPONENT / name)]


def test_component_names_every_manifest_beside_it() -> None:
    assert {*LABELS["resources"], "kustomization.yaml"} == {path.name for path in COMPONENT.glob("*.yaml")}


def test_component_gives_the_driver_its_flag() -> None:
    (patch,) = LABELS["patches"]
    assert patch["target"] == {"kind": "DaemonSet", "name": WORKLOADS["node"]["metadata"]["name"]}
    test, add = yaml.safe_load(patch["patch"])
    assert (test["op"], test["value"]) == ("test", pod_of("node")["containers"][0]["name"])
    arguments = [*containers("node")["csi-oras"]["args"][1:], "--node-id=node-1"]
    assert serve.make_context("serve", list(arguments)).params["label_node"] is False
    assert serve.make_context("serve", [*arguments, add["value"]]).params["label_node"] is True


def test_component_allows_the_driver_to_patch_nodes_and_no_more() -> None:
    (role,), (binding,) = of_kind("ClusterRole", LABELLING), of_kind("ClusterRoleBinding", LABELLING)
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [s["name"] for s in binding["subjects"]] == [pod_of("node")["serviceAccountName"]]


def test_admission_holds_for_the_account_that_may_patch_nodes_and_for_our_prefix() -> None:
    (policy,) = of_kind("ValidatingAdmissionPolicy", LABELLING)
    (binding,) = of_kind("ValidatingAdmissionPolicyBinding", LABELLING)
    (subject,) = of_kind("ClusterRoleBinding", LABELLING)[0]["subjects"]
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    assert policy["spec"]["failurePolicy"] == "Fail"
    (condition,) = policy["spec"]["matchConditions"]
    user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
    assert condition["expression"] == f"request.userInfo.username == '{user}'"
    prefixes = {p for v in policy["spec"]["validations"] for p in re.findall(r"startsWith\('(.*?)'\)", v["expression"])}
    assert prefixes == {f"{labels.PREFIX}/"}


def test_pod_of_the_example_goes_by_the_label_of_its_artifact() -> None:
    (pod,) = of_kind("Pod", read(BASE / "examples" / "prefetched.yaml"))
    affinity = pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    (expression,) = affinity[0]["preference"]["matchExpressions"]
    (volume,) = inline_volumes([pod])
    reference = Reference.parse(volume["csi"]["volumeAttributes"]["reference"])
    assert expression == {"key": labels.label_of(reference), "operator": "Exists"}


# -- the workflow of the examples

STEPS = workflow.steps()
ANNOTATIONS = {
    "oras-cache", "input-uri", "input-uri_N", "output-uri", "input-path", "output-path", "output-pipe", "container",
    "registry", "oras-env", "oras-container", "unpack", "entrypoint", "oras-entrypoint", "debug",
}  # fmt: skip
"""What the ORAS operator understood."""


def test_workflow_names_every_manifest_beside_it() -> None:
    (kustomization,) = read(workflow.DIRECTORY / "kustomization.yaml")
    named = {*kustomization["resources"], "kustomization.yaml"}
    assert named == {path.name for path in workflow.DIRECTORY.glob("*.yaml")}


def test_steps_of_the_workflow_begin_where_the_one_before_ends() -> None:
    first, second, third = [attributes.parse(step.attributes, {}) for step in STEPS]
    assert first.starts_empty
    assert first.write_back is not None
    assert second.write_back is not None
    assert [second.reference, third.reference] == [first.write_back.reference, second.write_back.reference]
    assert third.write_back is None
    assert {second.pull_policy, third.pull_policy} == {"Always"}
    assert [step.is_read_only for step in STEPS] == [False, False, True]
    assert {step.driver for step in STEPS} == {DEFAULT_DRIVER_NAME}


def test_run_of_the_workflow_is_in_all_its_names_and_tags() -> None:
    references = [value for step in STEPS for key, value in step.attributes.items() if key.endswith("eference")]
    assert len(references) == 4
    assert all(name.endswith("run-1") for name in (*references, *(step.name for step in STEPS)))


def test_policy_beside_the_workflow_allows_its_pushes_and_no_others() -> None:
    rules = write_back_rules(parse(workflow.POLICY_TEXT, "policy.yaml"))
    for step in STEPS:
        if wanted := attributes.parse(step.attributes, {}).write_back:
            rules.check(step.namespace, wanted.reference)
            with pytest.raises(AccessDeniedError):
                rules.check("default", wanted.reference)
    with pytest.raises(AccessDeniedError):
        rules.check(STEPS[0].namespace, Reference.parse("ghcr.io/acme/model:v1"))


def test_registry_of_the_workflow_is_the_service_and_spoken_to_as_its_hosts_file_says(tmp_path: Path) -> None:
    (service,), (server,) = of_kind("Service", workflow.OBJECTS), of_kind("Deployment", workflow.OBJECTS)
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    assert f"{name}.{namespace}.svc.cluster.local:{service['spec']['ports'][0]['port']}" == workflow.ADDRESS
    template = server["spec"]["template"]
    assert service["spec"]["selector"] == template["metadata"]["labels"] == server["spec"]["selector"]["matchLabels"]
    (port,) = template["spec"]["containers"][0]["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    (tmp_path / workflow.ADDRESS).mkdir()
    (tmp_path / workflow.ADDRESS / "hosts.toml").write_text(workflow.HOSTS)
    assert f"/etc/containerd/certs.d/{workflow.ADDRESS}/hosts.toml" in workflow.HOSTS
    (host,) = HostsDirectories(lambda: [str(tmp_path)]).hosts_of(workflow.ADDRESS)
    assert host.url.startswith(f"http://{workflow.ADDRESS}")


def test_pods_of_the_workflow_may_run_where_least_is_allowed() -> None:
    (namespace,) = of_kind("Namespace", workflow.OBJECTS)
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    for found in of_kind("Job", workflow.OBJECTS) + of_kind("Deployment", workflow.OBJECTS):
        assert found["metadata"]["namespace"] == namespace["metadata"]["name"]
        pod = found["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_table_of_the_workflow_has_each_annotation_of_the_operator_and_names_attributes_that_exist() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", workflow.README, re.MULTILINE)
    annotations = [name for cell, _ in rows for name in re.findall(r"`(.*?)`", cell)]
    assert sorted(annotations) == sorted(ANNOTATIONS)
    ours = [word for _, cell in rows for word in re.findall(r"`(\w+)(?:: \w+)?`", cell)]
    assert set(ours) - {"mountPath", "nodePublishSecretRef"} <= set(attributes.KEYS)
    assert all("not needed, because" in cell or re.search(r"`\w+", cell) for _, cell in rows)
