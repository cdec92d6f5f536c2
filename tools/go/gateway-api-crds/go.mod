// The CRDs of the Gateway API, for the chart's tests. There is no program, so `make tools` copies them.
module whisper-operator/tools/gateway-api-crds

go 1.24.0

require sigs.k8s.io/gateway-api v1.3.0
