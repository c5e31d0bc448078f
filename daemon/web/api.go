package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"knowngood/daemon/report"
	"knowngood/internal/printable"
)

type api struct {
	source  Source
	control Control
}

func (a *api) ready(w http.ResponseWriter, _ *http.Request) {
	if err := a.source.Ready(); err != nil {
		plain(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	plain(w, http.StatusOK, "ready")
}

func (a *api) report(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, a.source.Report())
}

// brief is an environment without its past runs, which the listing leaves out.
type brief struct {
	report.Environment
	Runs *struct{} `json:"runs,omitempty"`
}

func (a *api) environments(w http.ResponseWriter, _ *http.Request) {
	list := []brief{}
	for _, e := range a.source.Report().Environments {
		list = append(list, brief{Environment: e})
	}
	answer(w, http.StatusOK, map[string]any{"environments": list})
}

func (a *api) environment(w http.ResponseWriter, r *http.Request) {
	rep := a.source.Report()
	if e := find(&rep, r.PathValue("name")); e != nil {
		answer(w, http.StatusOK, e)
		return
	}
	fail(w, http.StatusNotFound, ErrUnknown.Error())
}

func (a *api) runs(w http.ResponseWriter, r *http.Request) {
	rep := a.source.Report()
	e := find(&rep, r.PathValue("name"))
	if e == nil {
		fail(w, http.StatusNotFound, ErrUnknown.Error())
		return
	}
	runs := e.Runs
	if runs == nil {
		runs = []report.Run{}
	}
	answer(w, http.StatusOK, map[string]any{"environment": e.Name, "runs": runs})
}

func (a *api) problems(w http.ResponseWriter, r *http.Request) {
	p, ok := a.source.Problems(r.PathValue("name"))
	if !ok {
		fail(w, http.StatusNotFound, ErrUnknown.Error())
		return
	}
	answer(w, http.StatusOK, p)
}

// started is the answer to a request for a run.
type started struct {
	Environment string `json:"environment"`
	// Asked is when; the run began then or later.
	Asked time.Time `json:"asked"`
}

func (a *api) snapshot(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	out := started{Environment: name, Asked: a.source.Report().Now}
	err := a.control.Start(r.Context(), name)
	switch {
	case errors.Is(err, ErrUnknown):
		fail(w, http.StatusNotFound, err.Error())
	case errors.Is(err, ErrRunning):
		fail(w, http.StatusConflict, err.Error())
	case err != nil:
		fail(w, http.StatusServiceUnavailable, err.Error())
	default:
		w.Header().Set("Location", "/api/v1/environments/"+name)
		answer(w, http.StatusAccepted, out)
	}
}

func find(r *report.Report, name string) *report.Environment {
	for i := range r.Environments {
		if r.Environments[i].Name == name {
			return &r.Environments[i]
		}
	}
	return nil
}

func plain(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, printable.Text(text))
}

// problem is the body of every answer that is an error.
type problem struct {
	Error string `json:"error"`
}

func fail(w http.ResponseWriter, code int, text string) { answer(w, code, problem{text}) }

func answer(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // times beyond the year 9999
		code, b = http.StatusInternalServerError, []byte(`{"error":"the state has no JSON form"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(printable.JSON(b), '\n'))
}
