# Plays TLS scenarios in memory, and tells what Net::SSLeay says of its
# contexts (`CTX_sess_*`: all twelve).

use strict;
use warnings;
use JSON::PP;
use Net::SSLeay;
use POSIX ();

Net::SSLeay::initialize();

my ($TLS12, $TLS13) = (Net::SSLeay::TLS1_2_VERSION(), Net::SSLeay::TLS1_3_VERSION());
my $SSL_ERROR_WANT_READ = Net::SSLeay::ERROR_WANT_READ();
my $SESS_CACHE_SERVER = 2;

# What is kept alive: [scenario, context].
my @contexts;

sub context {
    my ($name, $version, %how) = @_;
    my $ctx = Net::SSLeay::CTX_new_with_method(Net::SSLeay::TLS_method());
    Net::SSLeay::CTX_set_min_proto_version($ctx, $version);
    Net::SSLeay::CTX_set_max_proto_version($ctx, $version);
    Net::SSLeay::CTX_set_options($ctx, Net::SSLeay::OP_NO_TICKET()) if $how{no_ticket};
    push @contexts, [$name, $ctx];
    return $ctx;
}

# A server's context and a client's.
sub pair {
    my ($name, $version, %how) = @_;
    my $server = context($name, $version, %how);
    Net::SSLeay::CTX_use_certificate_file($server, $ENV{CERTIFICATE}, Net::SSLeay::FILETYPE_PEM());
    Net::SSLeay::CTX_use_PrivateKey_file($server, $ENV{KEY}, Net::SSLeay::FILETYPE_PEM());
    Net::SSLeay::CTX_set_session_id_context($server, "oracle", 6);
    Net::SSLeay::CTX_set_session_cache_mode($server, $SESS_CACHE_SERVER);
    return { server => $server, client => context($name, $version, %how) };
}

# One end of a connection in memory.
sub end_of {
    my ($ctx) = @_;
    my $ssl = Net::SSLeay::new($ctx);
    my ($in, $out) = map { Net::SSLeay::BIO_new(Net::SSLeay::BIO_s_mem()) } 1 .. 2;
    Net::SSLeay::set_bio($ssl, $in, $out);
    return { ssl => $ssl, in => $in, out => $out };
}

# Carries what both ends have written to the other; how many bytes that was.
sub pump {
    my ($one, $other) = @_;
    my $bytes = 0;
    for my $way ([$one, $other], [$other, $one]) {
        my ($from, $to) = @$way;
        while (my $pending = Net::SSLeay::BIO_pending($from->{out})) {
            $bytes += Net::SSLeay::BIO_write($to->{in}, Net::SSLeay::BIO_read($from->{out}, $pending));
        }
    }
    return $bytes;
}

# Does something with both ends until both are done; false if one failed.
sub both {
    my ($client, $server, $act_client, $act_server) = @_;
    my ($client_done, $server_done);
    for (1 .. 20) {
        for ([$client, $act_client, \$client_done], [$server, $act_server, \$server_done]) {
            my ($end, $act, $done) = @$_;
            next if $$done;
            my $result = $act->($end->{ssl});
            my $error = Net::SSLeay::get_error($end->{ssl}, $result);
            pump($client, $server);
            if ($result > 0) {
                $$done = 1;
            } elsif ($error != $SSL_ERROR_WANT_READ) {
                # The other end hears of it.
                my $other = $end == $client ? [$server, $act_server] : [$client, $act_client];
                $other->[1]->($other->[0]{ssl});
                Net::SSLeay::ERR_clear_error();
                return 0;
            }
        }
        return 1 if $client_done && $server_done;
    }
    die "the handshake does not end";
}

my $shake = sub { Net::SSLeay::do_handshake($_[0]) };
my $write = sub { Net::SSLeay::write($_[0], "x") };
my $read = sub {
    my ($data, $result) = Net::SSLeay::read($_[0], 1);
    return $result;
};

# The server asks for another handshake; both ends take part by reading.
sub renegotiate {
    my ($client, $server) = @_;
    Net::SSLeay::renegotiate($server->{ssl});
    $shake->($server->{ssl});
    while (pump($client, $server)) {
        $read->($_->{ssl}) for $client, $server;
    }
}

# One connection, closed by both sides; the client's session, which the caller frees.
sub connect_pair {
    my ($pair, %how) = @_;
    my ($client, $server) = map { end_of($pair->{$_}) } qw(client server);
    Net::SSLeay::set_connect_state($client->{ssl});
    Net::SSLeay::set_accept_state($server->{ssl});
    Net::SSLeay::set_session($client->{ssl}, $how{session}) if $how{session};
    Net::SSLeay::set_tlsext_host_name($client->{ssl}, $how{name}) if $how{name};
    my $session;
    if ($how{by_reads_and_writes} || both($client, $server, $shake, $shake)) {
        both($client, $server, $read, $write) or die "no data";
        renegotiate($client, $server) if $how{renegotiate};
        $session = Net::SSLeay::get1_session($client->{ssl});
        for ($client, $server, $client) {
            Net::SSLeay::shutdown($_->{ssl});
            pump($client, $server);
        }
    } elsif (!$how{may_fail}) {
        die "the handshake failed";
    }
    Net::SSLeay::free($_->{ssl}) for $client, $server;
    return $session;
}

sub resume {
    my ($pair, $times, %how) = @_;
    my $session;
    for (1 .. $times) {
        my $next = connect_pair($pair, %how, session => $session);
        Net::SSLeay::SESSION_free($session) if $session;
        $session = $next;
    }
    Net::SSLeay::SESSION_free($session) if $session;
}

my %scenarios = (
    tls12_session_ids => sub { resume(pair($_[0], $TLS12, no_ticket => 1), 5) },
    tls12_tickets => sub { resume(pair($_[0], $TLS12), 6) },
    tls13_tickets => sub { resume(pair($_[0], $TLS13), 7) },
    tls13_no_ticket => sub { resume(pair($_[0], $TLS13, no_ticket => 1), 4) },
    expired => sub {
        my $pair = pair($_[0], $TLS12, no_ticket => 1);
        Net::SSLeay::CTX_set_timeout($pair->{server}, 1);
        my $session = connect_pair($pair);
        sleep 2;
        select undef, undef, undef, 0.1;
        my $other = connect_pair($pair, session => $session);
        Net::SSLeay::SESSION_free($_) for $session, $other;
    },
    full_cache => sub {
        my $pair = pair($_[0], $TLS12, no_ticket => 1);
        Net::SSLeay::CTX_sess_set_cache_size($pair->{server}, 3);
        my @sessions = map { connect_pair($pair) } 1 .. 9;
        push @sessions, connect_pair($pair, session => $sessions[0]);
        push @sessions, connect_pair($pair, session => $sessions[8]);
        Net::SSLeay::SESSION_free($_) for @sessions;
    },
    sni_switch => sub {
        for my $version ($TLS12, $TLS13) {
            my ($pair, $other) = map { pair($_[0], $version) } 1 .. 2;
            Net::SSLeay::CTX_set_tlsext_servername_callback($pair->{server}, sub {
                my ($ssl) = @_;
                my $name = Net::SSLeay::get_servername($ssl) // "";
                Net::SSLeay::set_SSL_CTX($ssl, $other->{server}) if $name eq "a.test";
                return 0;
            });
            resume($pair, 4, name => "a.test");
            resume($pair, 2, name => "b.test");
        }
    },
    hello_retry_request => sub {
        my $pair = pair($_[0], $TLS13);
        # The client offers a share of X25519 first.
        Net::SSLeay::CTX_set1_groups_list($pair->{server}, "P-384");
        resume($pair, 3);
    },
    failed_handshakes => sub {
        # No version in common.
        my $pair = pair($_[0], $TLS12);
        Net::SSLeay::CTX_set_max_proto_version($pair->{server}, $TLS13);
        Net::SSLeay::CTX_set_min_proto_version($pair->{server}, $TLS13);
        connect_pair($pair, may_fail => 1);
        # A certificate that nobody vouches for.
        for my $version ($TLS12, $TLS13) {
            my $failing = pair($_[0], $version);
            Net::SSLeay::CTX_set_verify($failing->{client}, Net::SSLeay::VERIFY_PEER(), undef);
            connect_pair($failing, may_fail => 1);
        }
    },
    renegotiation => sub {
        my $pair = pair($_[0], $TLS12);
        resume($pair, 3, renegotiate => 1);
    },
    driven_by_reads_and_writes => sub {
        resume(pair($_[0], $_), 4, by_reads_and_writes => 1) for $TLS12, $TLS13;
    },
);

# The functions are called as the values are.
my @names = qw(number connect connect_good connect_renegotiate accept accept_good
    accept_renegotiate hits cb_hits misses timeouts cache_full);

sub told {
    no strict "refs";
    return [map {
        my ($scenario, $ctx) = @$_;
        my %stats = map { $_ => 0 + &{"Net::SSLeay::CTX_sess_$_"}($ctx) } @names;
        { scenario => $scenario, ctx => sprintf("0x%x", $ctx), stats => \%stats };
    } @contexts];
}

# Contexts whose settings are not the defaults, each used once.
sub varied {
    my ($seconds) = @_;
    my $number = 0;
    for my $version ($TLS12, $TLS13) {
        for my $no_ticket (0, 1) {
            $number++;
            my $pair = pair("varied $number", $version, no_ticket => $no_ticket);
            my $ctx = $pair->{server};
            Net::SSLeay::CTX_set_timeout($ctx, $seconds + $number);
            Net::SSLeay::CTX_sess_set_cache_size($ctx, 1000 * $number);
            Net::SSLeay::CTX_set_session_cache_mode($ctx, $no_ticket ? 0x82 : 0x102);
            Net::SSLeay::CTX_set_session_id_context($ctx, "some name", $number);
            Net::SSLeay::CTX_set_num_tickets($ctx, $number);
            Net::SSLeay::CTX_set_verify($ctx, Net::SSLeay::VERIFY_PEER(), sub { 1 }) if $no_ticket;
            Net::SSLeay::CTX_sess_set_new_cb($ctx, sub { 0 }) if $no_ticket;
            Net::SSLeay::CTX_sess_set_remove_cb($ctx, sub { 0 }) if $number == 2;
            Net::SSLeay::SESSION_free(connect_pair($pair));
        }
    }
}

sub settings {
    return [map {
        my ($scenario, $ctx) = @$_;
        my %settings = (
            cache_mode => 0 + Net::SSLeay::CTX_get_session_cache_mode($ctx),
            cache_size => 0 + Net::SSLeay::CTX_sess_get_cache_size($ctx),
            timeout => 0 + Net::SSLeay::CTX_get_timeout($ctx),
            num_tickets => 0 + Net::SSLeay::CTX_get_num_tickets($ctx),
            options => 0 + Net::SSLeay::CTX_get_options($ctx),
            min_protocol => 0 + Net::SSLeay::CTX_get_min_proto_version($ctx),
            max_protocol => 0 + Net::SSLeay::CTX_get_max_proto_version($ctx),
            verify_mode => 0 + Net::SSLeay::CTX_get_verify_mode($ctx),
        );
        { scenario => $scenario, ctx => sprintf("0x%x", $ctx), settings => \%settings };
    } @contexts];
}

sub perform {
    my ($command, $name) = @_;
    return { contexts => settings() } if $command eq "settings";
    return { scenarios => [sort keys %scenarios] } if $command eq "scenarios";
    return { contexts => told() } if $command eq "stats";
    if ($command eq "run") {
        $scenarios{$name}->($name);
    } elsif ($command eq "varied") {
        varied($name);
    } elsif ($command eq "free") {
        for (@contexts) {
            Net::SSLeay::CTX_set_tlsext_servername_callback($_->[1], undef);
            Net::SSLeay::CTX_free($_->[1]);
        }
        @contexts = ();
    } elsif ($command eq "exit") {
        # Without freeing anything.
        POSIX::_exit(0);
    } else {
        die "no such command: $command";
    }
    return {};
}

my $json = JSON::PP->new->canonical;
$| = 1;
print $json->encode({ ready => JSON::PP::true }), "\n";
while (my $line = <STDIN>) {
    my $answer = eval { perform(split " ", $line) } // { error => "$@" };
    print $json->encode($answer), "\n";
}
