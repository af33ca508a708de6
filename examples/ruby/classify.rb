# frozen_string_literal: true

# Classifies photos: `ruby classify.rb photo.jpg another.png` with a call for each file, `ruby classify.rb folder/` over
# one stream. Prints one JSON object an image. Exit code: 0, 1 an image has no answer, 2 there are none.

require "set"
require_relative "connection"

SECONDS = 60 # for a call; a stream gets one more for each of its images
IN_FLIGHT = 32 # requests of a stream
ATTEMPTS = 5
PHOTO = /\.(bmp|gif|jpe?g|png|webp)\z/i
CODES = GRPC::Core::StatusCodes.constants.to_h { |name| [GRPC::Core::StatusCodes.const_get(name), name] }
Trouble = Struct.new(:code, :reason, :message)

def show(path, result, trouble = result&.error)
  $failed = true if trouble
  predictions = (result&.predictions || []).map do |each|
    { label: each.label, index: each.index, probability: each.probability }
  end
  error = trouble && { code: CODES[trouble.code], reason: trouble.reason, message: trouble.message }
  puts JSON.generate({ path: path, predictions: predictions, error: error })
end

# The file, or nil and a line that says why.
def read(path)
  File.binread(path)
rescue SystemCallError => e
  show(path, nil, Trouble.new(GRPC::Core::StatusCodes::NOT_FOUND, "CANNOT_READ", e.message))
  nil
end

# More images would fit into a request: one each lets the first answer come first.
def ask(encoded)
  Glimpse::V1::ClassifyRequest.new(
    images: [Glimpse::V1::Image.new(encoded: encoded)], options: Glimpse::V1::ClassifyOptions.new(top_k: 5)
  )
end

# One call. An image that cannot be classified is no error: its result says so.
def classify(stub, encoded)
  # gRPC repeats the call where that helps, until the deadline.
  stub.classify(ask(encoded), deadline: Time.now + SECONDS)
end

# All of a folder, over as many streams as it takes: what a broken one left unanswered goes to the next.
def classify_many(stub, paths)
  unanswered = Set.new(paths)
  fruitless = 0
  until unanswered.empty?
    before = unanswered.size
    begin
      classify_stream(stub, unanswered)
    rescue GRPC::Unavailable
      fruitless = unanswered.size < before ? 0 : fruitless + 1
      raise if fruitless == ATTEMPTS

      sleep(0.1 * (2**fruitless) * rand(0.8..1.2))
    end
  end
end

# One stream; takes from `unanswered` what has its answer.
def classify_stream(stub, unanswered)
  left = unanswered.to_a
  tries = Hash.new(0) # of those in flight
  outbox = Queue.new # gRPC sends in a thread of its own
  done = lambda do |path|
    tries.delete(path)
    unanswered.delete(path)
  end
  submit = lambda do |path|
    encoded = read(path)
    next done.call(path) unless encoded

    tries[path] += 1
    outbox << Glimpse::V1::ClassifyStreamRequest.new(id: path, request: ask(encoded))
  end
  fill = lambda do
    submit.call(left.shift) while tries.size < IN_FLIGHT && left.any?
    outbox << nil if tries.empty? && left.empty? # no more will come
  end
  requests = Enumerator.new do |sink|
    while (request = outbox.pop)
      sink << request
    end
  end

  fill.call
  stub.classify_stream(requests, deadline: Time.now + SECONDS + unanswered.size).each do |reply|
    refused = reply.error
    if refused && refused.retry_after_seconds.positive? && tries[reply.id] < ATTEMPTS
      again = reply.id
      Thread.new do
        sleep(refused.retry_after_seconds)
        submit.call(again)
        fill.call
      end
      next # it stays in flight
    end
    result = reply.response&.results&.first
    show(reply.id, result, refused || result&.error)
    done.call(reply.id)
    fill.call
  end
ensure
  outbox << nil # a sender that waits can go
end

begin
  raise "Name photos or folders." if ARGV.empty?

  stub = Connection.open
  ARGV.each do |path|
    if File.directory?(path)
      classify_many(stub, Dir.glob(File.join(path, "**", "*")).grep(PHOTO).sort)
    elsif (encoded = read(path))
      show(path, classify(stub, encoded).results.first)
    end
  end
  exit($failed ? 1 : 0)
rescue GRPC::BadStatus => e
  # The request as a whole: for instance QUEUE_FULL, MODEL_NOT_FOUND, TOKEN_MISSING, or nobody answers.
  warn "#{[CODES[e.code], Connection.reason_of(e)].compact.join(' ')}: #{e.details}"
  exit 2
rescue RuntimeError, SystemCallError => e
  warn e.message
  exit 2
end
