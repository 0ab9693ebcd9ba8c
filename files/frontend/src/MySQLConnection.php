<?php

declare(strict_types=1);

namespace OmegaUp;

/**
 * The database, over a persistent connection per FPM worker ("p:"). On reuse mysqli resets the connection's state and
 * user, which also rolls back whatever a dead request left open, and connects anew when the server is gone.
 */
final class MySQLConnection
{
    /** With TLS wanted: what mysqlnd says of a server that offers none ("has gone away"). */
    private const NO_TLS = 2006;

    private static ?self $instance = null;

    private function __construct(private readonly \mysqli $link)
    {
    }

    /** @throws \mysqli_sql_exception */
    public static function getInstance(): self
    {
        return self::$instance ??= new self(self::open());
    }

    /** The next access connects anew. */
    public static function forget(): void
    {
        self::$instance = null;
    }

    /**
     * @param list<int|float|string|null> $parameters
     * @return list<array<string, mixed>>
     * @throws \mysqli_sql_exception
     */
    public function select(string $sql, array $parameters = []): array
    {
        $result = $this->link->execute_query($sql, $parameters);
        return $result instanceof \mysqli_result ? $result->fetch_all(MYSQLI_ASSOC) : [];
    }

    private static function open(): \mysqli
    {
        mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
        if (!Config::bool('OMEGAUP_DB_TLS')) {
            return self::connect(false);
        }
        try {
            return self::connect(true);
        } catch (\mysqli_sql_exception $error) {
            if ($error->getCode() !== self::NO_TLS || self::insists()) {
                throw $error;
            }
            return self::connect(false);
        }
    }

    /** Asked at each new connection only, and only of a server without TLS: a change takes effect at once. */
    private static function insists(): bool
    {
        $file = Config::string('OMEGAUP_DB_TLS_INSIST_FILE');
        return $file === '' || !in_array(trim((string)@file_get_contents($file)), ['preferred', 'off'], true);
    }

    private static function connect(bool $tls): \mysqli
    {
        [$host, $port] = explode(':', Config::string('OMEGAUP_DB_HOST'), 2) + [1 => '3306'];
        // mysqli counts in whole seconds.
        $timeout = max(1, (int)ceil(Config::seconds('OMEGAUP_DB_TIMEOUT_MS')));
        $link = new \mysqli();
        $link->options(MYSQLI_OPT_CONNECT_TIMEOUT, $timeout);
        $link->options(MYSQLI_OPT_READ_TIMEOUT, $timeout);
        $flags = 0;
        if ($tls) {
            $link->options(MYSQLI_OPT_SSL_VERIFY_SERVER_CERT, true);
            $link->ssl_set(Config::ssl('frontend.key'), Config::ssl('frontend.crt'), Config::ssl('ca.crt'), null, null);
            $flags = MYSQLI_CLIENT_SSL;
        }
        @$link->real_connect(
            "p:$host",
            Config::string('OMEGAUP_DB_USER'),
            Config::string('OMEGAUP_DB_PASS'),
            Config::string('OMEGAUP_DB_NAME'),
            (int)$port,
            // Of no use over TCP, but part of the name by which persistent connections are found: one that was made in
            // plain text is not to be found where TLS is wanted.
            $tls ? 'tls' : null,
            $flags,
        );
        $link->set_charset('utf8mb4');
        return $link;
    }
}
