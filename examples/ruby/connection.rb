# frozen_string_literal: true

# How to reach a server: its address, TLS, a token, retries; and what its refusals mean.

require "json"
require "grpc"
require "google/protobuf/well_known_types"
require "google/rpc/error_details_pb"

$LOAD_PATH.unshift(File.join(__dir__, "lib")) # the generated files ask for one another by name
require "glimpse/v1/classifier_services_pb"

module Connection
  # The server's own default limit; gRPC's would refuse many a phone's photo.
  MAX_MESSAGE_BYTES = 16 * 1024 * 1024

  SERVICE = "glimpse.v1.ImageClassifier"
  SERVICE_CONFIG = {
    # A name with several addresses: calls take turns between them.
    loadBalancingConfig: [{ round_robin: {} }],
    methodConfig: [
      # Without a policy of its own: classify.rb knows better which images of a stream have no answer yet.
      { name: [{ service: SERVICE, method: "ClassifyStream" }] },
      {
        name: [{ service: SERVICE }],
        retryPolicy: {
          maxAttempts: 5,
          initialBackoff: "0.1s",
          maxBackoff: "1s",
          backoffMultiplier: 2,
          # A full server says when to come back (`grpc-retry-pushback-ms`); gRPC then waits for so long instead.
          retryableStatusCodes: %w[UNAVAILABLE RESOURCE_EXHAUSTED]
        }
      }
    ]
  }.freeze

  CHANNEL = {
    "grpc.service_config" => JSON.generate(SERVICE_CONFIG),
    "grpc.max_send_message_length" => MAX_MESSAGE_BYTES,
    "grpc.max_receive_message_length" => MAX_MESSAGE_BYTES,
    # A call that is repeated has to be kept meanwhile.
    "grpc.per_rpc_retry_buffer_size" => MAX_MESSAGE_BYTES
  }.freeze

  module_function

  # A stub as the environment describes it: GLIMPSE_TARGET, GLIMPSE_TLS, GLIMPSE_TLS_CA, GLIMPSE_TOKEN.
  def open(environment = ENV)
    target, tls, authorities, token =
      %w[GLIMPSE_TARGET GLIMPSE_TLS GLIMPSE_TLS_CA GLIMPSE_TOKEN].map { |name| environment.fetch(name, "") }
    if tls.empty? && authorities.empty?
      unless token.empty?
        raise "GLIMPSE_TOKEN would travel readable for everyone on the way. Set GLIMPSE_TLS=1 or GLIMPSE_TLS_CA."
      end
      credentials = :this_channel_is_insecure
    else
      credentials = GRPC::Core::ChannelCredentials.new(authorities.empty? ? nil : File.read(authorities))
      unless token.empty?
        show = ->(_) { { "authorization" => "Bearer #{token}" } }
        credentials = credentials.compose(GRPC::Core::CallCredentials.new(show))
      end
    end
    target = "localhost:50051" if target.empty?
    Glimpse::V1::ImageClassifier::Stub.new(target, credentials, channel_args: CHANNEL)
  end

  # The reason of a refused call, for programs to switch on; nil where the status is not the service's own.
  def reason_of(error)
    details = error.to_rpc_status&.details || []
    infos = details.select { |each| each.is(Google::Rpc::ErrorInfo) }.map { |each| each.unpack(Google::Rpc::ErrorInfo) }
    infos.find { |info| info.domain == "glimpse" }&.reason
  end
end
