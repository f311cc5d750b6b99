"""KubeRay's rules about what it is given.

They are those of `ray-operator/controllers/ray/utils/validation.go` as published (with some that may be younger than
1.7.0), and those in CEL of its definitions. Each is either reached through the chart's values, and then there are
values that break it, or it is not, and then it says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from charted import JOB, at, merged


@dataclass(frozen=True)
class KubeRayRule:
    """One rule.

    Attributes:
        about: The resource.
        says: What KubeRay says where the rule is broken, shortened; of a rule in CEL its whole message.
        values: Values over BASE that break it.
        named: Pattern of what the chart says: the value, and what is wrong with it.
        why_not: Why no values can break it.
    """

    about: str
    says: str
    values: dict[str, Any] | None = None
    named: str = ""
    why_not: str = ""


# A site where everything is in order: an endpoint, a shared cluster, a job of its own and one on the shared cluster.
BASE: dict[str, Any] = {
    "auth": {"existingSecret": "ray-token"},
    "apiKeys": {"existingSecret": "api-keys"},
    "storage": {"claim": "artifacts"},
    "endpoints": {"chat": {"models": ["chat"]}},
    "cluster": {"enabled": True},
    "jobs": {"train": {"job": JOB}, "shared": {"job": JOB, "shared": True}},
}


def _rules(*given: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Returns values of the job with deletion rules."""
    return at("jobs.train", {"shutdownAfterJobFinishes": False, "deletionRules": list(given), **more})


def _delete(policy: str, ttl: int = 0, **condition: Any) -> dict[str, Any]:
    return {"policy": policy, "condition": {"ttlSeconds": ttl, **condition}}


FAILED: dict[str, Any] = {"jobStatus": "FAILED"}
REDIS = {"redisAddress": "redis:6379", "passwordSecret": {"name": "redis"}, "enabled": True}
WITH_REDIS = {"gcsFaultTolerance": REDIS, "networkPolicy": {"egress": {"redis": {"to": [], "ports": [6379]}}}}
STEPS = {"type": "NewClusterWithIncrementalUpgrade", "gatewayClassName": "istio"}
OPEN = at("networkPolicy.clients", [{"podSelector": {}}])


def _steps(**more: Any) -> dict[str, Any]:
    """Returns values of the endpoint with the incremental upgrade."""
    return merged(OPEN, at("endpoints.chat.upgrade", {**STEPS, **more}))


CLUSTER = [
    KubeRayRule("RayCluster", "name should be no more than 53 characters",
                at("fullnameOverride", "c" * 50), r"cluster: its object would be called c+-cluster, 58 characters"),
    KubeRayRule("RayCluster", "name should be a valid DNS1035 label",
                at("fullnameOverride", "1st"), r'fullnameOverride.*"1st", which must begin with a letter'),
    KubeRayRule("RayCluster", "Spec.UpgradeStrategy.Type value is invalid",
                at("cluster.upgrade", "Rolling"), r"/cluster/upgrade': value must be one of"),
    KubeRayRule("RayCluster", "upgradeStrategy cannot be set when RayCluster is created by RayJob or RayService",
                why_not="only the shared cluster gets one"),
    KubeRayRule("RayCluster", "resource fields in both rayStartParams and Resources of the head",
                why_not="no value sets the head's resources field"),
    KubeRayRule("RayCluster", "resource fields in both rayStartParams and Resources of a worker group",
                at("pools.cpu", {"rayResources": {"CPU": "2"}, "rayStartParams": {"num-cpus": "2"}}),
                r"pools\.cpu\.rayStartParams\.num-cpus is set, and so is pools\.cpu\.rayResources"),
    KubeRayRule("RayCluster", "rayStartParams['labels'] is not supported for Head",
                at("head.rayStartParams.labels", "a=b"), r"head\.rayStartParams\.labels is set by rayLabels"),
    KubeRayRule("RayCluster", "rayStartParams['labels'] is not supported for a worker group",
                at("pools.cpu.rayStartParams.labels", "a"), r"pools\.cpu\.rayStartParams\.labels is set by rayLabels"),
    KubeRayRule("RayCluster", "invalid label key for Head", at("head.rayLabels", {"a b": "c"}),
                r"/head/rayLabels': additional properties 'a b'"),
    KubeRayRule("RayCluster", "invalid label value in Head", at("head.rayLabels", {"a": "b c"}),
                r"/head/rayLabels/a'.*'b c'"),
    KubeRayRule("RayCluster", "invalid label key for a worker group", at("pools.cpu.rayLabels", {"-a": "c"}),
                r"/pools/cpu/rayLabels': additional properties '-a'"),
    KubeRayRule("RayCluster", "invalid label value in a worker group", at("poolDefaults.rayLabels", {"a": "x" * 64}),
                r"/poolDefaults/rayLabels/a'"),
    KubeRayRule("RayCluster", "headGroupSpec should have at least one container", why_not="it always has one"),
    KubeRayRule("RayCluster", "workerGroupSpec should have at least one container", why_not="it always has one"),
    KubeRayRule("RayCluster", "must set both minReplicas and maxReplicas when autoscaling is disabled",
                at("jobs.train.workers", {"cpu": {"minReplicas": 1}}),
                r"/jobs/train/workers/cpu': missing property 'maxReplicas'"),
    KubeRayRule("RayCluster", "negative minReplicas",
                at("cluster.workers.cpu", {"minReplicas": -1, "maxReplicas": 1}), r"/cluster/workers/cpu/minReplicas'"),
    KubeRayRule("RayCluster", "negative maxReplicas",
                at("cluster.workers.cpu", {"minReplicas": 0, "maxReplicas": -1}), r"/cluster/workers/cpu/maxReplicas'"),
    KubeRayRule("RayCluster", "minReplicas greater than maxReplicas",
                at("cluster.workers.cpu", {"minReplicas": 3, "maxReplicas": 2}),
                r"cluster\.workers\.cpu\.minReplicas is 3, above maxReplicas 2"),
    KubeRayRule("RayCluster", "worker group: idleTimeoutSeconds must be non-negative",
                at("pools.cpu.idleTimeoutSeconds", -1), r"/pools/cpu/idleTimeoutSeconds'"),
    KubeRayRule("RayCluster", "worker group: idleTimeoutSeconds is set, but autoscaler v2 is not enabled",
                why_not="left out where the workload does not scale; where it does, the version is v2"),
    KubeRayRule("RayCluster", "worker group: priority is set, but RayVersion was not specified",
                at("rayVersion", ""), r"/rayVersion': '' does not match"),
    KubeRayRule("RayCluster", "worker group: priority is set, but RayVersion format is invalid",
                at("rayVersion", "nightly"), r"/rayVersion': 'nightly' does not match"),
    KubeRayRule("RayCluster", "worker group: priority is set, but minimum Ray version is 2.56.0",
                at("rayVersion", "2.55.0"), r"rayVersion is 2\.55\.0, and .* need 2\.60\.0 or later"),
    KubeRayRule("RayCluster", "worker group: priority is set, but autoscaler v2 is not enabled",
                why_not="left out where the workload does not scale; where it does, the version is v2"),
    KubeRayRule("RayCluster", "ray.io/ft-enabled annotation and GcsFaultToleranceOptions are both set",
                merged(WITH_REDIS, at("annotations", {"ray.io/ft-enabled": "true"})),
                r"annotations\.ray\.io/ft-enabled is set by gcsFaultTolerance\.enabled"),
    KubeRayRule("RayCluster", "RAY_REDIS_ADDRESS is set, but GcsFaultToleranceOptions is not",
                at("head.env", {"RAY_REDIS_ADDRESS": "redis:6379"}),
                r"head\.env\.RAY_REDIS_ADDRESS is set by gcsFaultTolerance\.redisAddress"),
    KubeRayRule("RayCluster", "cannot set redis-password in rayStartParams",
                merged(WITH_REDIS, at("head.rayStartParams", {"redis-password": "secret"})),
                r"head\.rayStartParams\.redis-password is set by gcsFaultTolerance\.passwordSecret"),
    KubeRayRule("RayCluster", "cannot set REDIS_PASSWORD env var in head Pod",
                merged(WITH_REDIS, at("env", {"REDIS_PASSWORD": "secret"})),
                r"env\.REDIS_PASSWORD is set by gcsFaultTolerance\.passwordSecret"),
    KubeRayRule("RayCluster", "cannot set RAY_REDIS_ADDRESS env var in head Pod",
                merged(WITH_REDIS, at("env", {"RAY_REDIS_ADDRESS": "redis:6379"})),
                r"env\.RAY_REDIS_ADDRESS is set by gcsFaultTolerance\.redisAddress"),
    KubeRayRule("RayCluster", "cannot set ray.io/external-storage-namespace annotation",
                merged(WITH_REDIS, at("annotations", {"ray.io/external-storage-namespace": "x"})),
                r"annotations\.ray\.io/external-storage-namespace is set by KubeRay"),
    KubeRayRule("RayCluster", "rocksdb: the feature gate, redis fields, storage, env, mounts, volumes",
                why_not="the backend is redis"),
    KubeRayRule("RayCluster", "cannot set GcsFaultToleranceOptions.Storage when backend is redis",
                why_not="no value sets it"),
    KubeRayRule("RayCluster", "cannot set redis username in rayStartParams",
                at("head.rayStartParams", {"redis-username": "ray"}),
                r"head\.rayStartParams\.redis-username is set by gcsFaultTolerance\.redisUsername"),
    KubeRayRule("RayCluster", "cannot set redis username in environment variables",
                at("head.env", {"REDIS_USERNAME": "ray"}),
                r"head\.env\.REDIS_USERNAME is set by gcsFaultTolerance\.redisUsername"),
    KubeRayRule("RayCluster", "worker group can be suspended only with a feature gate, and not with the autoscaler",
                why_not="no value suspends a worker group"),
    KubeRayRule("RayCluster", "RAY_enable_autoscaler_v2 cannot be set when enableInTreeAutoscaling is false",
                merged(at("head.env", {"RAY_enable_autoscaler_v2": "1"}), at("cluster.enabled", False)),
                r"head\.env\.RAY_enable_autoscaler_v2 is set by autoscaling"),
    KubeRayRule("RayCluster", "both autoscalerOptions.version and RAY_enable_autoscaler_v2 are set",
                at("env", {"RAY_enable_autoscaler_v2": "1"}), r"env\.RAY_enable_autoscaler_v2 is set by autoscaling"),
    KubeRayRule("RayCluster", "restartPolicy for head Pod should be Never or unset", why_not="it is unset"),
    KubeRayRule("RayCluster", "restartPolicy for a worker group should be Never or unset", why_not="it is unset"),
    KubeRayRule("RayCluster", "autoscalerOptions.idleTimeoutSeconds must be non-negative",
                at("autoscaler.idleTimeoutSeconds", -5), r"/autoscaler/idleTimeoutSeconds'"),
    KubeRayRule("RayCluster", "autoscalerOptions.env must not contain KUBERAY_GEN_AUTOSCALER_START_CMD",
                why_not="no value sets the autoscaler's environment"),
    KubeRayRule("RayCluster", "historyServerOptions: the feature gate, collector, its container and environment",
                why_not="no value sets it"),
    KubeRayRule("RayCluster", "authOptions.mode is token but RayVersion was not specified",
                at("rayVersion", ""), r"/rayVersion': '' does not match"),
    KubeRayRule("RayCluster", "authOptions.mode is token but RayVersion format is invalid",
                at("rayVersion", "2.x"), r"/rayVersion': '2\.x' does not match"),
    KubeRayRule("RayCluster", "authOptions.mode is token but minimum Ray version is 2.52.0",
                at("rayVersion", "2.51.0"), r"rayVersion is 2\.51\.0, and token authentication"),
    KubeRayRule("RayCluster", "authOptions.enableK8sTokenAuth: Ray's version, secretName, mode",
                why_not="no value sets it"),
    KubeRayRule("RayCluster", "networkPolicy: the feature gate, rules of a mode, names of groups",
                why_not="the chart makes NetworkPolicies itself"),
    KubeRayRule("RayCluster", "tlsOptions: the feature gate, environment, mounts", why_not="no value sets it"),
]  # fmt: skip

JOBS = [
    KubeRayRule("RayJob", "name should be no more than 47 characters",
                at("jobs", {"j" * 40: {"job": JOB}}), r"jobs\.j+: its object would be called .* 5\d characters"),
    KubeRayRule("RayJob", "name should be a valid DNS1035 label",
                at("jobs", {"Train": {"job": JOB}}), r"/jobs': additional properties 'Train'"),
    KubeRayRule("RayJob", "with shutdownAfterJobFinishes false is not allowed to be suspended",
                why_not="no value suspends a job; Kueue, which does, is taken care of"),
    KubeRayRule("RayJob", "TTLSecondsAfterFinished must be a non-negative integer",
                at("jobs.train.ttlSecondsAfterFinished", -1), r"/jobs/train/ttlSecondsAfterFinished'"),
    KubeRayRule("RayJob", "with shutdownAfterJobFinishes false cannot have TTLSecondsAfterFinished",
                at("jobs.train", {"shutdownAfterJobFinishes": False, "ttlSecondsAfterFinished": 5}),
                r"jobs\.train\.ttlSecondsAfterFinished is 5, and shutdownAfterJobFinishes is false"),
    KubeRayRule("RayJob", "the ClusterSelector mode doesn't support the suspend operation",
                at("jobs.shared.queue", "batch"), r"jobs\.shared\.queue is given, and jobs\.shared\.shared is true"),
    KubeRayRule("RayJob", "one of RayClusterSpec or ClusterSelector must be set", why_not="one always is"),
    KubeRayRule("RayJob", "cluster name in ClusterSelector should not be empty", why_not="it never is"),
    KubeRayRule("RayJob", "ClusterSelector is not supported in SidecarMode",
                at("jobs.shared.submissionMode", "SidecarMode"), r"/jobs/shared/submissionMode': value must be one of"),
    KubeRayRule("RayJob", "BackoffLimit is incompatible with ClusterSelector mode",
                at("jobs.shared.backoffLimit", 2), r"jobs\.shared\.backoffLimit is given, and jobs\.shared\.shared"),
    KubeRayRule("RayJob", "BackoffLimit is incompatible with InteractiveMode",
                at("jobs.train.submissionMode", "InteractiveMode"), r"/jobs/train/submissionMode': value must be one"),
    KubeRayRule("RayJob", "SidecarMode: submitterPodTemplate, submitterConfig, restartPolicy",
                at("jobs.train.submissionMode", "SidecarMode"), r"/jobs/train/submissionMode': value must be one of"),
    KubeRayRule("RayJob", "K8s token auth mode is not supported", why_not="no value sets it"),
    KubeRayRule("RayJob", "runtimeEnvYAML is no YAML", why_not="no value sets it"),
    KubeRayRule("RayJob", "activeDeadlineSeconds must be a positive integer",
                at("jobs.train.activeDeadlineSeconds", -1), r"/jobs/train/activeDeadlineSeconds'"),
    KubeRayRule("RayJob", "preRunningDeadlineSeconds must be a positive integer",
                at("jobs.train.preRunningDeadlineSeconds", -1), r"/jobs/train/preRunningDeadlineSeconds'"),
    KubeRayRule("RayJob", "backoffLimit must be a positive integer",
                at("jobs.train.backoffLimit", -1), r"/jobs/train/backoffLimit'"),
    KubeRayRule("RayJob", "RayJobDeletionPolicy feature gate must be enabled to use DeletionStrategy",
                why_not="a setting of the operator, on by default in 1.7; the README names it"),
    KubeRayRule("RayJob", "shutdownAfterJobFinishes and deletionRules are mutually exclusive",
                _rules(_delete("DeleteCluster", **FAILED), shutdownAfterJobFinishes=True),
                r"jobs\.train\.deletionRules is given, and shutdownAfterJobFinishes is true"),
    KubeRayRule("RayJob", "legacy onSuccess and onFailure: both, their policies, with selectors, autoscaling, shutdown",
                why_not="no value sets them"),
    KubeRayRule("RayJob", "deletionRules: cannot set both JobStatus and JobDeploymentStatus",
                _rules(_delete("DeleteSelf", jobStatus="FAILED", jobDeploymentStatus="Failed")),
                r"jobs\.train\.deletionRules\[0\]\.condition has jobStatus and jobDeploymentStatus"),
    KubeRayRule("RayJob", "deletionRules: exactly one of JobStatus and JobDeploymentStatus must be set",
                _rules(_delete("DeleteSelf")), r"jobs\.train\.deletionRules\[0\]\.condition has neither"),
    KubeRayRule("RayJob", "deletionRules: TTLSeconds must be non-negative",
                _rules(_delete("DeleteSelf", -1, **FAILED)), r"/jobs/train/deletionRules/0/condition/ttlSeconds'"),
    KubeRayRule("RayJob", "deletionRules: DeleteCluster and DeleteWorkers not supported with ClusterSelector",
                at("jobs.shared.deletionRules", [_delete("DeleteCluster", **FAILED)]),
                r"jobs\.shared\.deletionRules\[0\]\.policy is DeleteCluster, and the shared cluster is not the job's"),
    KubeRayRule("RayJob", "deletionRules: DeleteWorkers not supported with autoscaling enabled",
                _rules(_delete("DeleteWorkers", **FAILED), autoscaling=True),
                r"jobs\.train\.deletionRules\[0\]\.policy is DeleteWorkers, and autoscaling is true"),
    KubeRayRule("RayJob", "deletionRules: duplicate rule for a policy and JobStatus",
                _rules(_delete("DeleteSelf", **FAILED), _delete("DeleteSelf", 9, **FAILED)),
                r"jobs\.train\.deletionRules\[1\] is a second rule for DeleteSelf at jobStatus FAILED"),
    KubeRayRule("RayJob", "deletionRules: duplicate rule for a policy and JobDeploymentStatus",
                _rules(_delete("DeleteSelf", jobDeploymentStatus="Failed"),
                       _delete("DeleteSelf", jobDeploymentStatus="Failed")),
                r"deletionRules\[1\] is a second rule for DeleteSelf at jobDeploymentStatus Failed"),
    KubeRayRule("RayJob", "deletionRules: for a JobStatus, TTLs must not shrink from workers to cluster to self",
                _rules(_delete("DeleteCluster", 60, **FAILED), _delete("DeleteSelf", 5, **FAILED)),
                r"deletionRules: at jobStatus FAILED, ttlSeconds of DeleteSelf is 5, less than that of DeleteCluster"),
    KubeRayRule("RayJob", "deletionRules: for a JobDeploymentStatus, TTLs must not shrink",
                _rules(_delete("DeleteWorkers", 60, jobDeploymentStatus="Failed"),
                       _delete("DeleteCluster", 5, jobDeploymentStatus="Failed")),
                r"at jobDeploymentStatus Failed, ttlSeconds of DeleteCluster is 5, less than that of DeleteWorkers"),
    KubeRayRule("RayJob", "DeletionStrategy cannot be empty", why_not="it is left out then"),
]  # fmt: skip

SERVICES = [
    KubeRayRule("RayService", "name should be no more than 47 characters",
                at("fullnameOverride", "e" * 43), r"endpoints\.chat: its object would be called e+-chat, 48 char"),
    KubeRayRule("RayService", "name should be a valid DNS1035 label",
                at("endpoints", {"a_b": {"models": ["chat"]}}), r"/endpoints': additional properties 'a_b'"),
    KubeRayRule("RayService", "ray.io/initializing-timeout must be a positive duration",
                at("endpoints.chat.initializingTimeout", "0m"), r"/endpoints/chat/initializingTimeout'"),
    KubeRayRule("RayService", "ray.io/initializing-timeout must be a positive integer",
                at("endpoints.chat.initializingTimeout", "0"), r"/endpoints/chat/initializingTimeout'"),
    KubeRayRule("RayService", "ray.io/initializing-timeout has invalid format",
                at("endpoints.chat.initializingTimeout", "soon"), r"/endpoints/chat/initializingTimeout'"),
    KubeRayRule("RayService", "K8s token auth mode is not supported", why_not="no value sets it"),
    KubeRayRule("RayService", "headService.metadata.name should not be set", why_not="no value sets it"),
    KubeRayRule("RayService", "Spec.UpgradeStrategy.Type value is invalid",
                at("endpoints.chat.upgrade.type", "Rolling"), r"/endpoints/chat/upgrade/type': value must be one of"),
    KubeRayRule("RayService", "RayClusterDeletionDelaySeconds should be a non-negative integer",
                at("endpoints.chat.upgrade.deletionDelaySeconds", -1), r"/chat/upgrade/deletionDelaySeconds'"),
    KubeRayRule("RayService", "Ray Autoscaler is required for NewClusterWithIncrementalUpgrade",
                merged(_steps(), at("endpoints.chat", {
                    "autoscaling": False, "workers": {"cpu": {"minReplicas": 4, "maxReplicas": 4}}})),
                r"endpoints\.chat\.autoscaling is false, and endpoints\.chat\.upgrade\.type"),
    KubeRayRule("RayService", "ClusterUpgradeOptions are required", why_not="they are always there with that type"),
    KubeRayRule("RayService", "maxSurgePercent must be between 0 and 100",
                _steps(maxSurgePercent=101), r"/endpoints/chat/upgrade/maxSurgePercent'"),
    KubeRayRule("RayService", "stepSizePercent must be between 0 and 100",
                _steps(stepSizePercent=-1), r"/endpoints/chat/upgrade/stepSizePercent'"),
    KubeRayRule("RayService", "stepSizePercent must be less than or equal to maxSurgePercent",
                _steps(stepSizePercent=60), r"upgrade\.stepSizePercent is 60, above maxSurgePercent 50"),
    KubeRayRule("RayService", "intervalSeconds must be greater than 0",
                _steps(intervalSeconds=0), r"/endpoints/chat/upgrade/intervalSeconds'"),
    KubeRayRule("RayService", "gatewayClassName is required for NewClusterWithIncrementalUpgrade",
                _steps(gatewayClassName=""), r"endpoints\.chat\.upgrade\.gatewayClassName is empty"),
    KubeRayRule("RayCronJob", "all rules", why_not="the chart makes none"),
    KubeRayRule("status", "rules about statuses", why_not="the operator writes them"),
]  # fmt: skip

TRANSITION = "a change of an object: only the API server knows the former value; the README says so"
MANAGED = "the managedBy field value must be either 'ray.io/kuberay-operator' or 'kueue.x-k8s.io/multikueue'"
CEL = [
    KubeRayRule("CEL", MANAGED, at("kueue.managedBy", "me"), r"/kueue/managedBy': value must be one of"),
    KubeRayRule("CEL", "the managedBy field is immutable", why_not=TRANSITION),
    KubeRayRule("CEL", "gcsFaultToleranceOptions.backend is immutable", why_not="the backend is redis"),
    KubeRayRule("CEL", "legacy policies (onSuccess/onFailure) and deletionRules cannot be used together within the "
                       "same deletionStrategy", why_not="no value sets the legacy policies"),
    KubeRayRule("CEL", "deletionStrategy requires either BOTH onSuccess and onFailure, OR the deletionRules field "
                       "(cannot be empty)", why_not="it is left out then"),
    KubeRayRule("CEL", "JobStatus and JobDeploymentStatus cannot be used together within the same deletion condition.",
                _rules(_delete("DeleteSelf", jobStatus="FAILED", jobDeploymentStatus="Failed")),
                r"deletionRules\[0\]\.condition has jobStatus and jobDeploymentStatus"),
    KubeRayRule("CEL", "the deletion condition requires either the JobStatus or the JobDeploymentStatus field.",
                _rules(_delete("DeleteSelf")), r"deletionRules\[0\]\.condition has neither"),
]  # fmt: skip

RULES = [*CLUSTER, *JOBS, *SERVICES, *CEL]
