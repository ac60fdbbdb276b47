"""What node policy means to the parts that keep to it: its words, as the values that they take."""

from csi_oras import config
from csi_oras.pack.walk import WalkLimits
from csi_oras.policy.access import RepositoryRules
from csi_oras.policy.signatures import VerificationRule
from csi_oras.policy.write_back import WriteBackRule, WriteBackRules
from csi_oras.registry.keychain import Sources
from csi_oras.registry.providers import ProviderSettings
from csi_oras.registry.service_accounts import ServiceAccountRule
from csi_oras.store.space import StoreLimits
from csi_oras.transfer.blobs import Limits
from csi_oras.transfer.layout import ArtifactLimits
from csi_oras.transfer.lazily import LazyRules
from csi_oras.transfer.resolve import ManifestLimits


def rules(policy: config.Policy) -> RepositoryRules:
    """Return which repositories `policy` lets a node pull from."""
    return RepositoryRules(allow=policy.registries.allow, deny=policy.registries.deny)


def write_back_rules(policy: config.Policy) -> WriteBackRules:
    """Return who may push where by `policy`."""
    allow = tuple(
        WriteBackRule(namespaces=rule.namespaces, references=rule.references) for rule in policy.write_back.allow
    )
    return WriteBackRules(enabled=policy.write_back.enabled, allow=allow)


def sources(policy: config.Policy) -> Sources:
    """Return where `policy` has credentials looked for."""
    named = policy.credentials
    return Sources(
        service_accounts=tuple(
            ServiceAccountRule(match=rule.match, audience=rule.audience) for rule in named.service_account_tokens
        ),
        providers=ProviderSettings(config_file=named.providers.config_file, directory=named.providers.bin_dir),
        docker_files=named.docker_config,
    )


def verification(policy: config.Policy) -> list[VerificationRule]:
    """Return what `policy` wants signed, and by whom."""
    return [
        VerificationRule(
            match=rule.match, enforce=rule.mode == "enforce", keys=tuple(key.key for key in rule.cosign_keys)
        )
        for rule in policy.verification
    ]


def pull_limits(policy: config.Policy) -> Limits:
    """Return how much is pulled at a time by `policy`."""
    pulls = policy.pulls
    return Limits(
        blobs=pulls.parallel_blobs,
        ranges=pulls.parallel_ranges,
        range_bytes=pulls.range_bytes,
        bytes_per_second=pulls.max_bytes_per_second,
    )


def lazy_rules(policy: config.Policy) -> LazyRules:
    """Return what may be lazy by `policy`."""
    lazy, pulls = policy.lazy, policy.pulls
    return LazyRules(enabled=lazy.enabled, require_index=lazy.require_index, whole_bytes=pulls.range_bytes)


def store_limits(policy: config.Policy) -> StoreLimits:
    """Return how large the store may become by `policy`."""
    store = policy.store
    return StoreLimits(
        max_bytes=store.max_bytes,
        high_watermark=store.high_watermark,
        low_watermark=store.low_watermark,
        min_age=store.min_age,
    )


def artifact_limits(policy: config.Policy) -> ArtifactLimits:
    """Return how large an artifact may be by `policy`."""
    limits = policy.limits
    return ArtifactLimits(artifact_bytes=limits.artifact_bytes, files=limits.files, unpack_ratio=limits.unpack_ratio)


def write_limits(policy: config.Policy) -> WalkLimits:
    """Return how much may be written back by `policy`."""
    return WalkLimits(entries=policy.write_back.max_files, size=policy.write_back.max_bytes)


def manifest_limits(policy: config.Policy) -> ManifestLimits:
    """Return how large a manifest may be by `policy`."""
    return ManifestLimits(manifest_bytes=policy.limits.manifest_bytes, layers=policy.limits.layers)
