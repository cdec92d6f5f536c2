// The CRDs of the Prometheus operator, for the chart's tests. There is no program, so `make tools` copies them.
module whisper-operator/tools/prometheus-operator-crds

go 1.25.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
