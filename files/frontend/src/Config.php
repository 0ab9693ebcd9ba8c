<?php

declare(strict_types=1);

namespace OmegaUp;

/** The constants of config.php, all checked before the first is used. config.sample.php says what each is. */
final class Config
{
    public const DEFAULT_PATH = '/etc/omegaup/frontend/config.php';

    private const REQUIRED = [
        'REDIS_HOST', 'REDIS_PORT', 'REDIS_USER', 'REDIS_PASS',
        'REDIS_SESSIONS_HOST', 'REDIS_SESSIONS_PORT', 'REDIS_SESSIONS_PASS',
        'OMEGAUP_DB_HOST', 'OMEGAUP_DB_USER', 'OMEGAUP_DB_PASS', 'OMEGAUP_DB_NAME',
        'OMEGAUP_RABBITMQ_HOST', 'OMEGAUP_RABBITMQ_PORT', 'OMEGAUP_RABBITMQ_USERNAME',
        'OMEGAUP_RABBITMQ_PASSWORD', 'OMEGAUP_RABBITMQ_VHOST',
        'OMEGAUP_GRADER_URL', 'OMEGAUP_GITSERVER_URL', 'OMEGAUP_SSL_DIR',
    ];

    private const DEFAULTS = [
        'REDIS_TLS' => false,
        'REDIS_SESSIONS_REPLICAS' => 0,
        'OMEGAUP_DB_TLS' => false,
        'OMEGAUP_DB_TLS_INSIST_FILE' => '',
        'OMEGAUP_RABBITMQ_TLS' => false,
        'OMEGAUP_REFERENCE_LOGIN' => false,
        'OMEGAUP_RATE_LIMIT' => 60,
        'OMEGAUP_PATIENCE_SECONDS' => 0,
        'OMEGAUP_MAX_SOURCE_BYTES' => 131072,
        'OMEGAUP_REDIS_TIMEOUT_MS' => 1000,
        'OMEGAUP_DB_TIMEOUT_MS' => 2000,
        'OMEGAUP_RABBITMQ_TIMEOUT_MS' => 2000,
        'OMEGAUP_BACKEND_TIMEOUT_MS' => 10000,
        'OMEGAUP_HEALTH_REQUIRED' => Health::PARTS,
    ];

    private static bool $loaded = false;

    /** @throws \RuntimeException that names the file and what is wrong with it, never a value */
    public static function load(): void
    {
        if (self::$loaded) {
            return;
        }
        // A fastcgi parameter or an environment variable; a client's headers arrive as HTTP_*, so cannot set it.
        $path = $_SERVER['OMEGAUP_CONFIG'] ?? getenv('OMEGAUP_CONFIG');
        $path = is_string($path) && $path !== '' ? $path : self::DEFAULT_PATH;
        if (!is_readable($path)) {
            throw new \RuntimeException("$path: missing, or not readable by this user");
        }
        require $path;
        $missing = array_filter(self::REQUIRED, static fn (string $name): bool => !defined($name));
        if ($missing !== []) {
            throw new \RuntimeException("$path: not defined: " . implode(', ', $missing));
        }
        foreach (self::DEFAULTS as $name => $value) {
            if (!defined($name)) {
                define($name, $value);
            }
        }
        // The sessions instance normally has the same user name as the cache, and its own password.
        if (!defined('REDIS_SESSIONS_USER')) {
            define('REDIS_SESSIONS_USER', constant('REDIS_USER'));
        }
        foreach (['OMEGAUP_GRADER_URL', 'OMEGAUP_GITSERVER_URL'] as $name) {
            if (!str_starts_with(self::string($name), 'https://')) {
                throw new \RuntimeException("$path: $name: must begin with https://");
            }
        }
        $unknown = array_diff(self::list('OMEGAUP_HEALTH_REQUIRED'), Health::PARTS);
        if ($unknown !== []) {
            throw new \RuntimeException("$path: OMEGAUP_HEALTH_REQUIRED: unknown part; known: " . implode(', ', Health::PARTS));
        }
        self::$loaded = true;
    }

    public static function string(string $name): string
    {
        $value = constant($name);
        return is_string($value) ? $value : throw new \RuntimeException("$name: expected a string");
    }

    public static function int(string $name): int
    {
        $value = filter_var(constant($name), FILTER_VALIDATE_INT);
        return is_int($value) ? $value : throw new \RuntimeException("$name: expected an integer");
    }

    /** Of a constant in milliseconds. */
    public static function seconds(string $name): float
    {
        return self::int($name) / 1000;
    }

    public static function bool(string $name): bool
    {
        $value = constant($name);
        return is_bool($value) ? $value : throw new \RuntimeException("$name: expected true or false");
    }

    /** @return list<string> */
    public static function list(string $name): array
    {
        $value = constant($name);
        return is_array($value) ? array_values($value) : throw new \RuntimeException("$name: expected an array");
    }

    /** Our certificate, its key or the CA's: the names of the specification. */
    public static function ssl(string $file): string
    {
        return self::string('OMEGAUP_SSL_DIR') . '/' . $file;
    }

    /**
     * PHP's stream context options for mutual TLS towards $host.
     *
     * @return array<string, mixed>
     */
    public static function streamTls(string $host): array
    {
        return [
            'cafile' => self::ssl('ca.crt'),
            'local_cert' => self::ssl('frontend.crt'),
            'local_pk' => self::ssl('frontend.key'),
            'peer_name' => $host,
            'verify_peer' => true,
            'verify_peer_name' => true,
        ];
    }
}
