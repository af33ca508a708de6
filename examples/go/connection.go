// How to reach a server: its address, TLS, a token; and what its refusals mean.

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// The server's own default limit; gRPC's would refuse many a phone's photo.
const maxMessageBytes = 16 << 20

// A name with several addresses: calls take turns between them.
const serviceConfig = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// connect opens a connection as the environment describes it: GLIMPSE_TARGET, GLIMPSE_TLS, GLIMPSE_TLS_CA, GLIMPSE_TOKEN.
func connect() (*grpc.ClientConn, error) {
	target, authorities, token := os.Getenv("GLIMPSE_TARGET"), os.Getenv("GLIMPSE_TLS_CA"), os.Getenv("GLIMPSE_TOKEN")
	if target == "" {
		target = "localhost:50051"
	}
	if !strings.Contains(target, ":/") {
		target = "dns:///" + target // all addresses of the name, not only one
	}
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(maxMessageBytes), grpc.MaxCallRecvMsgSize(maxMessageBytes)),
	}
	switch {
	case authorities != "" || os.Getenv("GLIMPSE_TLS") != "":
		var pool *x509.CertPool // nil: the authorities of the system
		if authorities != "" {
			pem, err := os.ReadFile(authorities)
			if err != nil {
				return nil, err
			}
			pool = x509.NewCertPool()
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s has no certificate in PEM format", authorities)
			}
		}
		options = append(options, grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "")))
		if token != "" {
			options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
		}
	case token != "":
		return nil, errors.New("GLIMPSE_TOKEN would travel readable for everyone. Set GLIMPSE_TLS=1 or GLIMPSE_TLS_CA")
	default:
		options = append(options, grpc.WithInsecure())
	}
	return grpc.Dial(target, options...)
}

// bearer is a token that is shown with each call, over TLS alone.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// reasonOf is the reason of a refused call, for programs to switch on; "" where the status is not the service's own.
func reasonOf(refused *status.Status) string {
	for _, detail := range refused.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "glimpse" {
			return info.Reason
		}
	}
	return ""
}

// retryAfter is how long to wait before the call is made again, and whether that can help at all.
func retryAfter(refused *status.Status, attempt int) (time.Duration, bool) {
	for _, detail := range refused.Details() {
		if hint, ok := detail.(*errdetails.RetryInfo); ok {
			delay := hint.GetRetryDelay() // the server knows better than any formula
			return time.Duration(delay.GetSeconds())*time.Second + time.Duration(delay.GetNanos()), true
		}
	}
	return 100 * time.Millisecond << attempt, refused.Code() == codes.Unavailable
}

// nameOf is a status code as gRPC's specification writes it: DEADLINE_EXCEEDED.
func nameOf(code codes.Code) string {
	var name strings.Builder
	for at, letter := range code.String() {
		if at > 0 && unicode.IsUpper(letter) && code != codes.OK {
			name.WriteByte('_')
		}
		name.WriteRune(unicode.ToUpper(letter))
	}
	return name.String()
}
