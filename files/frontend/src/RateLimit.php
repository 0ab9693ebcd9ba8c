<?php

declare(strict_types=1);

namespace OmegaUp;

/** So many requests per address, endpoint and fixed window of 60 s. With the cache gone, everybody passes. */
final class RateLimit
{
    /**
     * One script, so that no crash between INCR and EXPIRE can leave a counter that never expires. The TTL is looked at
     * each time for the same reason: a counter without one gets one.
     */
    private const SCRIPT = <<<'LUA'
        local count = redis.call('INCR', KEYS[1])
        local ttl = redis.call('TTL', KEYS[1])
        if ttl < 0 then
            ttl = tonumber(ARGV[1])
            redis.call('EXPIRE', KEYS[1], ttl)
        end
        return {count, ttl}
        LUA;

    private static bool $counted = false;

    /** @throws HttpException 429 with Retry-After */
    public static function check(string $ip, string $endpoint): void
    {
        // A request that is tried again (see App) is still one.
        if (self::$counted) {
            return;
        }
        $key = Cache::RATE_LIMIT . ":$ip:$endpoint";
        try {
            $answer = RedisConnection::cache()->eval(self::SCRIPT, [$key, Cache::TTL[Cache::RATE_LIMIT]], 1);
        } catch (\RedisException $error) {
            RedisConnection::giveUp(RedisConnection::CACHE, $error);
            return;
        }
        if (!is_array($answer) || count($answer) !== 2) {
            return;
        }
        self::$counted = true;
        [$count, $ttl] = $answer;
        if ($count > Config::int('OMEGAUP_RATE_LIMIT')) {
            throw new HttpException(429, 'too many requests', headers: ['Retry-After' => (string)max(1, $ttl)]);
        }
    }
}
