<?php

declare(strict_types=1);

namespace OmegaUp;

/**
 * The two Redis instances: the cache may evict anything at any time, sessions must not be evicted.
 *
 * pconnect keeps a socket per FPM worker and address. On reuse phpredis sends an ECHO (redis.pconnect.echo_check_liveness)
 * and opens a new socket if the answer is not the one expected, so a failover between two requests costs nothing.
 */
final class RedisConnection
{
    public const CACHE = 'cache';
    public const SESSIONS = 'sessions';

    /** @var array<string, \Redis|\RedisException> what this request got: a part that was down is not tried again */
    private static array $instances = [];

    /** @throws \RedisException */
    public static function cache(): \Redis
    {
        return self::get(self::CACHE, 'REDIS');
    }

    /** @throws \RedisException */
    public static function sessions(): \Redis
    {
        return self::get(self::SESSIONS, 'REDIS_SESSIONS');
    }

    /** For the rest of the request: else each access would wait for the timeout anew, and log the same again. */
    public static function giveUp(string $name, \RedisException $error): void
    {
        if (!(self::$instances[$name] ?? null) instanceof \RedisException) {
            Log::failure("redis $name", $error);
        }
        self::$instances[$name] = $error;
    }

    /** The next access tries again, also a part that was down. */
    public static function forget(): void
    {
        self::$instances = [];
    }

    private static function get(string $name, string $constants): \Redis
    {
        try {
            self::$instances[$name] ??= self::open($name, $constants);
        } catch (\RedisException $error) {
            self::giveUp($name, $error);
        }
        $instance = self::$instances[$name];
        return $instance instanceof \Redis ? $instance : throw $instance;
    }

    private static function open(string $name, string $constants): \Redis
    {
        $host = Config::string("{$constants}_HOST");
        $tls = Config::bool('REDIS_TLS');
        $timeout = Config::seconds('OMEGAUP_REDIS_TIMEOUT_MS');
        $redis = new \Redis();
        // The warnings of a failed look-up or connection say nothing that the exception does not.
        $connected = @$redis->pconnect(
            $tls ? "tls://$host" : $host,
            Config::int("{$constants}_PORT"),
            $timeout,
            "omegaup-$name",
            0,
            $timeout,
            $tls ? ['stream' => Config::streamTls($host)] : [],
        );
        if (!$connected) {
            throw new \RedisException('connection failed');
        }
        // At most one silent reconnection when the peer has closed the socket: the default of ten can take long.
        $redis->setOption(\Redis::OPT_MAX_RETRIES, 1);
        $redis->setOption(\Redis::OPT_SCAN, \Redis::SCAN_RETRY);
        $user = Config::string("{$constants}_USER");
        $password = Config::string("{$constants}_PASS");
        // At every request, because a kept socket may have been authenticated as the other instance's user.
        if ($password !== '' && !$redis->auth($user === '' ? $password : [$user, $password])) {
            throw new \RedisException('WRONGPASS');
        }
        return $redis;
    }
}
