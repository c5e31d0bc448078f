package storage

// Counter is the optional capability to report the requests to a store.
type Counter interface {
	// Stats since the store was opened.
	Stats() Stats
}

// Stats count requests as they went over the wire, each attempt of a retried
// operation for itself. Bytes are those of bodies.
type Stats struct {
	Puts    int64
	Gets    int64
	Lists   int64
	Deletes int64
	Others  int64 // locks, versions, metadata
	Retries int64 // attempts after the first, within the counts above
	Sent    int64 // bytes
	Fetched int64 // bytes
}
