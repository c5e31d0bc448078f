package main

// metric is one respect in which sides are compared; less is better in all.
type metric struct {
	name, unit string
	of         func(Sample) float64 // negative when a sample has none
}

// Names of metrics.
const (
	metricWall     = "wall"
	metricUser     = "user CPU"
	metricSystem   = "system CPU"
	metricPeak     = "peak memory"
	metricStored   = "stored"
	metricRequests = "requests"
	metricDensity  = "requests per 8 MiB stored"
)

const mebibyte = 1 << 20

func metrics() []metric {
	return []metric{
		{metricWall, "s", func(s Sample) float64 { return s.Wall }},
		{metricUser, "s", func(s Sample) float64 { return s.User }},
		{metricSystem, "s", func(s Sample) float64 { return s.System }},
		{metricPeak, "MiB", func(s Sample) float64 { return float64(s.Peak) / mebibyte }},
		{metricStored, "MiB", func(s Sample) float64 { return known(float64(s.Stored) / mebibyte) }},
		{metricRequests, "", func(s Sample) float64 { return known(float64(s.Requests)) }},
		{metricDensity, "", func(s Sample) float64 {
			if s.Requests == 0 || s.Stored == 0 {
				return -1
			}
			return float64(s.Requests) / (float64(s.Stored) / (8 * mebibyte))
		}},
	}
}

// known is v, or negative where nothing was counted.
func known(v float64) float64 {
	if v == 0 {
		return -1
	}
	return v
}

// values of the samples that have the metric.
func (m metric) values(samples []Sample) []float64 {
	var values []float64
	for _, s := range samples {
		if v := m.of(s); v >= 0 {
			values = append(values, v)
		}
	}
	return values
}

// target is the most that is wanted: of restic's figure, or in the metric's
// unit.
type target struct {
	section, step, metric string // any step when it is empty

	Most     float64 `json:"most"`
	Absolute bool    `json:"absolute"`
}

func targets() []target {
	return []target{
		{sectionA, stepFirst, metricWall, 0.5, false},
		{sectionA, stepUnchanged, metricWall, 0.2, false},
		{sectionA, stepChanged, metricWall, 0.25, false},
		{sectionA, stepRestore, metricWall, 0.6, false},
		{sectionA, stepRestore, metricUser, 0.4, false},
		{sectionA, stepInPlace, metricWall, 0.5, false},
		{sectionA, stepCheck, metricWall, 0.6, false},
		{sectionA, stepFirst, metricStored, 0.83, false},
		{sectionA, "", metricPeak, 160, true},

		{sectionB, stepFirst, metricWall, 0.5, false},
		{sectionB, stepUnchanged, metricWall, 0.3, false},
		{sectionB, stepChanged, metricWall, 0.5, false},
		{sectionB, stepRestore, metricWall, 0.6, false},
		{sectionB, stepInPlace, metricWall, 0.6, false},
		{sectionB, stepCheck, metricWall, 0.6, false},
		{sectionB, stepFirst, metricStored, 1.0, false},
		{sectionB, "", metricPeak, 160, true},

		{sectionMillion, stepUnchanged, metricWall, 4, true},
		{sectionMillion, "", metricPeak, 200, true},

		{sectionS3, stepFirst, metricWall, 0.55, false},
		{sectionS3, stepFirst, metricDensity, 1, true},
		{sectionS3, stepRestore, metricWall, 0.65, false},
		{sectionS3, stepFile, metricRequests, 8, true},
	}
}

func stepTitle(section, step string) string {
	if section == sectionS3 && step == stepRestore {
		return "cold restore"
	}
	return map[string]string{
		stepFirst:     "first capture",
		stepUnchanged: "unchanged capture",
		stepChanged:   "1 % changed",
		stepRestore:   "restore to a new directory",
		stepInPlace:   "restore in place, nothing changed",
		stepCheck:     "check --read-data",
		stepFile:      "cold restore of one file",
		stepYoung:     "unchanged capture, of a tree touched just before the last one",
	}[step]
}
