// Classifies photos: `go run . photo.jpg another.png` with a call for each file, `go run . folder/` over one stream.
// Prints one JSON object an image. Exit code: 0, 1 an image has no answer, 2 there are none.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	glimpse "glimpse/v1"
)

const (
	patience = 60 * time.Second // for a call with its repetitions, and without an answer on a stream
	inFlight = 32               // requests of a stream
	attempts = 5
)

var (
	photo  = regexp.MustCompile(`(?i)\.(bmp|gif|jpe?g|png|webp)$`)
	failed = false
)

type trouble struct {
	Code    string `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type prediction struct {
	Label       string  `json:"label"`
	Index       uint32  `json:"index"`
	Probability float32 `json:"probability"`
}

type answer struct {
	Path        string       `json:"path"`
	Predictions []prediction `json:"predictions"`
	Error       *trouble     `json:"error"`
}

func show(path string, result *glimpse.ImageResult, wrong *trouble) {
	if refused := result.GetError(); refused != nil {
		wrong = &trouble{nameOf(codes.Code(refused.Code)), refused.Reason, refused.Message}
	}
	failed = failed || wrong != nil
	said := answer{path, []prediction{}, wrong}
	for _, each := range result.GetPredictions() {
		said.Predictions = append(said.Predictions, prediction{each.Label, each.Index, each.Probability})
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// ask is a request for one photo, or nil and a line that says why. More images would fit into a request: one each lets
// the first answer come first.
func ask(path string) *glimpse.ClassifyRequest {
	encoded, err := os.ReadFile(path)
	if err != nil {
		show(path, nil, &trouble{nameOf(codes.NotFound), "CANNOT_READ", err.Error()})
		return nil
	}
	best := uint32(5)
	return &glimpse.ClassifyRequest{
		Images:  []*glimpse.Image{{Source: &glimpse.Image_Encoded{Encoded: encoded}}},
		Options: &glimpse.ClassifyOptions{TopK: &best},
	}
}

// classify makes one call, and makes it again where that helps, until the deadline. An image that cannot be classified is
// no error: its result says so.
func classify(client glimpse.ImageClassifierClient, request *glimpse.ClassifyRequest) (*glimpse.ClassifyResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for attempt := 0; ; attempt++ {
		response, err := client.Classify(ctx, request)
		if err == nil {
			return response, nil
		}
		wait, helps := retryAfter(status.Convert(err), attempt)
		if !helps || attempt+1 == attempts {
			return nil, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// classifyMany classifies all of a folder, over as many streams as it takes: what a broken one left unanswered goes to the
// next.
func classifyMany(client glimpse.ImageClassifierClient, paths []string) error {
	for fruitless := 0; len(paths) > 0; fruitless++ {
		left, err := classifyStream(client, paths)
		if len(left) < len(paths) {
			fruitless = 0
		}
		paths = left
		if err == nil {
			if fruitless+1 == attempts {
				return fmt.Errorf("the server ends its streams and leaves %d files without an answer", len(paths))
			}
			continue
		}
		if status.Code(err) != codes.Unavailable || fruitless+1 == attempts {
			return err
		}
		time.Sleep(100 * time.Millisecond << fruitless)
	}
	return nil
}

type sent struct {
	request *glimpse.ClassifyStreamRequest
	tries   int
}

// classifyStream uses one stream and returns the paths that it has left without an answer.
func classifyStream(client glimpse.ImageClassifierClient, paths []string) (unanswered []string, ended error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	silence := time.AfterFunc(patience, cancel)
	defer silence.Stop()

	waiting := map[string]*sent{}
	next := 0
	defer func() { // it has been sent, or was never reached
		for path := range waiting {
			unanswered = append(unanswered, path)
		}
		unanswered = append(unanswered, paths[next:]...)
	}()

	stream, err := client.ClassifyStream(ctx)
	if err != nil {
		return nil, err
	}
	// One goroutine sends, this one receives. What waits to be sent is in flight, so there is room for it.
	outbox := make(chan *glimpse.ClassifyStreamRequest, inFlight)
	go func() {
		for {
			select {
			case request, more := <-outbox:
				if !more {
					_ = stream.CloseSend()
					return
				}
				if stream.Send(request) != nil {
					return // Recv tells why
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	fill := func() {
		for len(waiting) < inFlight && next < len(paths) {
			path := paths[next]
			next++
			if request := ask(path); request != nil {
				waiting[path] = &sent{&glimpse.ClassifyStreamRequest{Id: path, Request: request}, 1}
				outbox <- waiting[path].request
			}
		}
		if len(waiting) == 0 && next == len(paths) {
			close(outbox)
		}
	}

	fill()
	for {
		reply, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		silence.Reset(patience)
		this := waiting[reply.Id]
		refused := reply.GetError()
		if refused != nil && refused.RetryAfterSeconds > 0 && this.tries < attempts {
			this.tries++ // it stays in flight
			wait := time.Duration(refused.RetryAfterSeconds * float64(time.Second))
			time.AfterFunc(wait, func() { outbox <- this.request })
			continue
		}
		switch results := reply.GetResponse().GetResults(); {
		case refused != nil:
			show(reply.Id, nil, &trouble{nameOf(codes.Code(refused.Code)), refused.Reason, refused.Message})
		case len(results) == 1:
			show(reply.Id, results[0], nil)
		}
		delete(waiting, reply.Id)
		fill()
	}
}

func photosIn(folder string) (paths []string, err error) {
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && photo.MatchString(path) {
			paths = append(paths, path)
		}
		return err
	})
	return paths, err
}

func run(named []string) error {
	if len(named) == 0 {
		return errors.New("name photos or folders")
	}
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	client := glimpse.NewImageClassifierClient(connection)
	for _, path := range named {
		if there, err := os.Stat(path); err == nil && there.IsDir() {
			photos, err := photosIn(path)
			if err == nil {
				err = classifyMany(client, photos)
			}
			if err != nil {
				return err
			}
		} else if request := ask(path); request != nil {
			response, err := classify(client, request)
			if err != nil {
				return err
			}
			show(path, response.Results[0], nil)
		}
	}
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		// The request as a whole: for instance QUEUE_FULL, MODEL_NOT_FOUND, TOKEN_MISSING, or nobody answers.
		if refused, ok := status.FromError(err); ok {
			name := nameOf(refused.Code())
			if reason := reasonOf(refused); reason != "" {
				name += " " + reason
			}
			fmt.Fprintf(os.Stderr, "%s: %s\n", name, refused.Message())
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}
