"""Asking a broker through Erlang's own protocol: shell that evaluates an expression in it and prints what that prints.

erl_call knows nothing of TLS. Where members talk by TLS, it is led through `openssl s_client`, with the broker's own
certificate. Inside TLS the messages of Erlang's handshake have lengths of four bytes, without it of two (OTP 25,
lib/ssl: inet_tls_dist; lib/kernel: inet_tcp_dist): so the bridge rewrites these, until the handshake has ended.
"""

from __future__ import annotations

from deploy.model.catalog import SSL_DIR
from deploy.roles.common import CA_FILE
from deploy.roles.rabbitmq_members import UNIT

ENV = "/etc/rabbitmq/rabbitmq-env.conf"
TLS_WORD = "inet_tls"
"""What a broker is started with that talks by TLS, among its arguments."""

_PAIR = f'"-cert", "{SSL_DIR}/rabbitmq.crt", "-key", "{SSL_DIR}/rabbitmq.key", "-CAfile", "{CA_FILE}"'

# No single quote: it is an argument in shell. Each end: where from, where to, what its last message of the handshake
# begins with, its lengths there and on the other side, what was not passed on yet.
_BRIDGE = f"""\
use IO::Socket::INET; use IPC::Open2;
my ($at) = grep {{ $ARGV[$_ - 1] eq "-address" }} 1 .. $#ARGV;
my $peer = $ARGV[$at];
my ($address) = $peer =~ /(.*):/;
my $door = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", Timeout => 15) or die "no port: $@\\n";
$ARGV[$at] = "127.0.0.1:" . $door->sockport;
my $child;
$SIG{{CHLD}} = sub {{ waitpid $child, 0; exit 1 }};
defined($child = fork) or die "no process: $!\\n";
exec @ARGV if !$child;
my $near = $door->accept or exit 1;
$SIG{{CHLD}} = "DEFAULT";
open STDERR, ">", "/dev/null";
my $tls = open2(my $from, my $into, "openssl", "s_client", "-quiet", "-verify_quiet", "-verify_return_error",
  "-verify_ip", $address, "-connect", $peer, {_PAIR});
my @ends = ([$near, $into, "r", 2, 4, ""], [$from, $near, "a", 4, 2, ""]);
my %form = (2 => "n", 4 => "N");
my $watched = "";
vec($watched, fileno $_->[0], 1) = 1 for @ends;
sub pass {{
  my ($end, $to, $last, $here, $there) = ($_[0], @{{$_[0]}}[1 .. 4]);
  while ($end->[2] ne "") {{
    return if length $end->[5] < $here;
    my $size = unpack $form{{$here}}, $end->[5];
    return if length $end->[5] < $here + $size;
    my $message = substr $end->[5], $here, $size;
    substr($end->[5], 0, $here + $size) = "";
    syswrite $to, pack($form{{$there}}, $size) . $message;
    $end->[2] = "" if $message =~ /^$last/;
  }}
  my $text = $end->[5];
  $end->[5] = "";
  while (length $text) {{ my $n = syswrite $to, $text or exit 1; substr($text, 0, $n) = "" }}
}}
LOOP: while (select my $ready = $watched, undef, undef, undef) {{
  for my $end (@ends) {{
    next if !vec $ready, fileno $end->[0], 1;
    sysread $end->[0], $end->[5], 65536, length $end->[5] or last LOOP;
    pass($end);
  }}
}}
close $near; kill "TERM", $tls; waitpid $child, 0; exit($? ? 1 : 0);
"""


def ask(port: int, expressions: str, address: str = "127.0.0.1") -> str:
    """Shell that evaluates Erlang in a broker and prints what that prints; it must end with the atom `fleet`.

    To the fixed port: epmd may be away. The caller's name has to be its own, or a second caller is refused. Whether by
    TLS is seen of the host's own broker, since members all talk in the same way; of one that does not run, of the file
    that it would start with.
    """
    return f"""\
by_tls() {{
  pid=$(systemctl show -p MainPID --value {UNIT} 2>/dev/null) || pid=0
  case ${{pid:-0}} in 0) grep -qs {TLS_WORD} {ENV} ;; *) grep -qszx {TLS_WORD} /proc/$pid/cmdline ;; esac
}}
ask() {{
  set -- erl_call -h "fleet$$" -address "{address}:{port}" -e -fetch_stdout
  if by_tls; then set -- perl -e '{_BRIDGE}' "$@"; fi
  out=$(HOME=/var/lib/rabbitmq timeout -k 1 20 "$@" 2>&1) \\
  || {{ printf '%s\\n' "$out" | cut -c1-300; return 1; }}
  case $out in
  *'{{ok, fleet}}') printf '%s' "${{out%'{{ok, fleet}}'}}" ;;
  *) printf '%s\\n' "$out" | tr '\\t' ' ' | sed '/^{{ok, /d' | tail -n 3 | cut -c1-300; return 1 ;;
  esac
}}
ask <<'ERLANG'
{expressions}ERLANG"""
