# Plays TLS scenarios over socket pairs, and tells what Ruby's openssl says of
# its contexts (`SSLContext#session_cache_stats`: all twelve).

require "fiddle"
require "json"
require "openssl"
require "socket"

CERTIFICATE = OpenSSL::X509::Certificate.new(File.read(ENV.fetch("CERTIFICATE")))
KEY = OpenSSL::PKey.read(File.read(ENV.fetch("KEY")))
TLS12 = OpenSSL::SSL::TLS1_2_VERSION
TLS13 = OpenSSL::SSL::TLS1_3_VERSION
CACHE_SERVER = OpenSSL::SSL::SSLContext::SESSION_CACHE_SERVER
CACHE_CLIENT = OpenSSL::SSL::SSLContext::SESSION_CACHE_CLIENT

NAMES = {
  cache_num: "number", connect: "connect", connect_good: "connect_good",
  connect_renegotiate: "connect_renegotiate", accept: "accept", accept_good: "accept_good",
  accept_renegotiate: "accept_renegotiate", cache_hits: "hits", cb_hits: "cb_hits",
  cache_misses: "misses", timeouts: "timeouts", cache_full: "cache_full"
}.freeze

# What is kept alive: [scenario, context].
CONTEXTS = []

# The SSL_CTX of a context: RTypedData keeps it behind two words of header, the
# type and a flag (ruby/internal/core/rtypeddata.h, Ruby 3.1).
def address(context)
  Fiddle::Pointer.new(Fiddle.dlwrap(context) + 32)[0, 8].unpack1("Q")
end

# A server's context and a client's.
class Pair
  attr_accessor :server, :client

  def initialize(name, version, tickets: true)
    @server = OpenSSL::SSL::SSLContext.new
    @server.cert = CERTIFICATE
    @server.key = KEY
    @server.session_id_context = "oracle"
    @server.session_cache_mode = CACHE_SERVER
    @client = OpenSSL::SSL::SSLContext.new
    @client.verify_mode = OpenSSL::SSL::VERIFY_NONE
    # With tickets of TLS 1.3 a client gets its session after the handshake.
    @client.session_cache_mode = CACHE_CLIENT
    @client.session_new_cb = ->((_, session)) { @fresh = session }
    [@server, @client].each do |context|
      context.min_version = context.max_version = version
      context.options |= OpenSSL::SSL::OP_NO_TICKET unless tickets
      CONTEXTS << [name, context]
    end
  end

  # One connection, closed by both sides; the client's session.
  def connect(session: nil, name: nil, good: true)
    near, far = UNIXSocket.pair
    @fresh = nil
    server = OpenSSL::SSL::SSLSocket.new(far, @server)
    client = OpenSSL::SSL::SSLSocket.new(near, @client)
    client.session = session if session
    client.hostname = name if name
    accepting = Thread.new do
      server.accept
      server.write("x")
      server.read(1)
    rescue OpenSSL::SSL::SSLError
      raise if good
    ensure
      # Closing says goodbye first, which an unfinished handshake must not.
      good ? server.close : far.close
    end
    begin
      client.connect
      client.read(1)
      client.write("y")
      got = @fresh || client.session
    rescue OpenSSL::SSL::SSLError
      raise if good
    end
    good ? client.close : near.close
    accepting.join
    got
  end

  def resume(times, **how)
    session = nil
    times.times { session = connect(session: session, **how) || session }
  end
end

SCENARIOS = {
  "tls12_session_ids" => ->(name) { Pair.new(name, TLS12, tickets: false).resume(5) },
  "tls12_tickets" => ->(name) { Pair.new(name, TLS12).resume(6) },
  "tls13_tickets" => ->(name) { Pair.new(name, TLS13).resume(7) },
  "tls13_no_ticket" => ->(name) { Pair.new(name, TLS13, tickets: false).resume(4) },
  "external_cache" => lambda do |name|
    [TLS12, TLS13].each do |version|
      pair = Pair.new(name, version, tickets: false)
      external = {}
      pair.server.session_cache_mode =
        CACHE_SERVER | OpenSSL::SSL::SSLContext::SESSION_CACHE_NO_INTERNAL
      pair.server.session_new_cb = ->((_, session)) { external[session.id] = session }
      pair.server.session_get_cb = ->((_, id)) { external[id] }
      pair.server.session_remove_cb = ->((_, session)) { external.delete(session.id) }
      pair.resume(4)
      external.clear
      pair.resume(2)
    end
  end,
  "expired" => lambda do |name|
    pair = Pair.new(name, TLS12, tickets: false)
    pair.server.timeout = 1
    session = pair.connect
    sleep 2.1
    pair.connect(session: session)
  end,
  "full_cache" => lambda do |name|
    pair = Pair.new(name, TLS12, tickets: false)
    pair.server.session_cache_size = 3
    sessions = Array.new(9) { pair.connect }
    pair.connect(session: sessions.first)
    pair.connect(session: sessions.last)
  end,
  "sni_switch" => lambda do |name|
    [TLS12, TLS13].each do |version|
      pair = Pair.new(name, version)
      other = Pair.new(name, version)
      pair.server.servername_cb = ->((_, host)) { host == "a.test" ? other.server : nil }
      pair.resume(4, name: "a.test")
      pair.resume(2, name: "b.test")
    end
  end,
  "hello_retry_request" => lambda do |name|
    pair = Pair.new(name, TLS13)
    # The client offers a share of X25519 first.
    pair.server.ecdh_curves = "P-384"
    pair.resume(3)
  end,
  "failed_handshakes" => lambda do |name|
    # No version in common.
    pair = Pair.new(name, TLS12)
    pair.server.max_version = TLS13
    pair.server.min_version = TLS13
    pair.connect(good: false)
    # A certificate that nobody vouches for.
    [TLS12, TLS13].each do |version|
      failing = Pair.new(name, version)
      failing.client.verify_mode = OpenSSL::SSL::VERIFY_PEER
      failing.connect(good: false)
    end
  end
}.freeze

def told
  CONTEXTS.map do |scenario, context|
    stats = context.session_cache_stats.to_h { |key, value| [NAMES.fetch(key), value] }
    { scenario: scenario, ctx: format("0x%x", address(context)), stats: stats }
  end
end

# Contexts whose settings are not the defaults, each used once.
def varied(seconds)
  [TLS12, TLS13].product([true, false]).each.with_index(1) do |(version, tickets), number|
    pair = Pair.new("varied #{number}", version, tickets: tickets)
    server = pair.server
    server.timeout = seconds + number
    server.session_cache_size = 1000 * number
    server.session_cache_mode = tickets ? CACHE_SERVER | 0x80 : CACHE_SERVER | CACHE_CLIENT
    server.verify_mode = OpenSSL::SSL::VERIFY_PEER unless tickets
    server.session_get_cb = ->((_, _)) {} if number == 2
    server.session_new_cb = ->((_, _)) {} if number == 2
    pair.connect
  end
end

# What Ruby keeps of what it set is said only if it was set.
def settings
  CONTEXTS.map do |scenario, context|
    said = {
      cache_mode: context.session_cache_mode, cache_size: context.session_cache_size,
      options: context.options, timeout: context.timeout, verify_mode: context.verify_mode,
      get_callback: !context.session_get_cb.nil?, new_callback: !context.session_new_cb.nil?,
      session_id_context_length: context.session_id_context&.length
    }
    { scenario: scenario, ctx: format("0x%x", address(context)), settings: said.compact }
  end
end

def perform(words)
  case words
  in ["varied", seconds]
    varied(Integer(seconds))
    {}
  in ["settings"] then { contexts: settings }
  in ["scenarios"] then { scenarios: SCENARIOS.keys }
  in ["run", name]
    SCENARIOS.fetch(name).call(name)
    {}
  in ["stats"]
    GC.start
    { contexts: told }
  in ["free"]
    CONTEXTS.clear
    # What the stack still holds is overwritten by the calls that follow.
    3.times { GC.start }
    {}
  in ["exit"] then Process.exit!(0)
  end
end

$stdout.sync = true
puts JSON.generate({ ready: true })
$stdin.each_line do |line|
  answer = begin
    perform(line.split)
  rescue StandardError => e
    { error: "#{e.class}: #{e.message} #{e.backtrace&.first}" }
  end
  puts JSON.generate(answer)
end
