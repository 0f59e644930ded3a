# Images for two architectures, with SBOM and provenance:
# `REGISTRY=registry.example VERSION=0.1.0 docker buildx bake --push`
variable "REGISTRY" { default = "localhost" }
variable "VERSION" { default = "0.1.0" }

group "default" { targets = ["slim", "distroless"] }

target "image" {
  context    = "."
  dockerfile = "Dockerfile"
  platforms  = ["linux/amd64", "linux/arm64"]
  attest     = ["type=sbom", "type=provenance,mode=max"]
  labels = {
    "org.opencontainers.image.title"    = "durable-bridge"
    "org.opencontainers.image.version"  = "${VERSION}"
    "org.opencontainers.image.licenses" = "Apache-2.0"
  }
}

target "slim" {
  inherits = ["image"]
  target   = "slim"
  tags     = ["${REGISTRY}/durable-bridge:${VERSION}"]
}

target "distroless" {
  inherits = ["image"]
  target   = "distroless"
  tags     = ["${REGISTRY}/durable-bridge:${VERSION}-distroless"]
}
