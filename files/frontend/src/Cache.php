<?php

declare(strict_types=1);

namespace OmegaUp;

/**
 * Get from the cache or compute. Redis that is gone, slow or full makes this slower, never wrong and never an error.
 *
 * Keys are the specification's: prefix, colon, id. Values are JSON (not PHP's serialization: whoever can write to the
 * cache must not be able to make objects here), so an object comes back as an array.
 */
final class Cache
{
    public const SESSION_PREFIX = 'session';
    /** The id is statementId(): problem:{alias}:statement:{lang}. */
    public const PROBLEM_STATEMENT = 'problem';
    public const SCOREBOARD = 'scoreboard';
    public const RATE_LIMIT = 'ratelimit';
    public const SCHOOL_RANK = 'school_rank';
    public const TAGS = 'tags';

    /** Seconds, from the specification's table. */
    public const TTL = [
        self::SESSION_PREFIX => 86400,
        self::PROBLEM_STATEMENT => 3600,
        self::SCOREBOARD => 30,
        self::RATE_LIMIT => 60,
        self::SCHOOL_RANK => 3600,
        self::TAGS => 3600,
    ];

    public static function statementId(string $alias, string $language): string
    {
        return "$alias:statement:$language";
    }

    /**
     * @template T of array<mixed>|scalar|null
     * @param callable(): T $compute its exceptions pass through, and nothing is stored then
     * @param int|null $ttl seconds; null means the table's
     * @return T
     */
    public static function getFromCacheOrSet(string $prefix, string $id, callable $compute, ?int $ttl = null): mixed
    {
        $key = self::key($prefix, $id);
        $stored = self::attempt($prefix, static fn (\Redis $redis): mixed => $redis->get($key));
        if (is_string($stored)) {
            $entry = json_decode($stored, true);
            // The wrapper tells a stored null from a value that is not ours or is cut short; those count as absent.
            if (is_array($entry) && array_key_exists('value', $entry)) {
                return $entry['value'];
            }
        }
        $value = $compute();
        $entry = json_encode(['value' => $value], JSON_THROW_ON_ERROR);
        $seconds = max(1, $ttl ?? self::TTL[$prefix]);
        self::attempt($prefix, static fn (\Redis $redis): mixed => $redis->set($key, $entry, ['ex' => $seconds]));
        return $value;
    }

    /** @return bool false when the instance could not be asked: the value then lives until its TTL ends */
    public static function deleteFromCache(string $prefix, string $id): bool
    {
        $key = self::key($prefix, $id);
        return self::attempt($prefix, static fn (\Redis $redis): mixed => $redis->unlink($key)) !== null;
    }

    /**
     * Delete all of $id's entries: prefix:id and everything below prefix:id:. With no id, all of the prefix.
     *
     * By SCAN, which unlike KEYS does not hold up the server. A version number in each key would be cheaper, but it would
     * change the specified keys, and with allkeys-lru the number itself can be evicted, which brings old values back.
     *
     * @return bool false when the instance could not be asked, or stopped answering half-way
     */
    public static function invalidateAllKeys(string $prefix, string $id = ''): bool
    {
        $base = self::key($prefix, $id);
        $pattern = addcslashes($id === '' ? $base : "$base:", '\\*?[]') . '*';
        return self::attempt($prefix, static function (\Redis $redis) use ($base, $pattern): bool {
            $redis->unlink($base);
            $cursor = null;
            // SCAN_RETRY makes phpredis go on over empty batches: false is the end.
            while (($keys = $redis->scan($cursor, $pattern, 500)) !== false) {
                if ($keys !== []) {
                    $redis->unlink($keys);
                }
            }
            return true;
        }) === true;
    }

    private static function key(string $prefix, string $id): string
    {
        if (!isset(self::TTL[$prefix])) {
            throw new \InvalidArgumentException("not a prefix of the cache: $prefix");
        }
        return "$prefix:$id";
    }

    /** @param callable(\Redis): mixed $do */
    private static function attempt(string $prefix, callable $do): mixed
    {
        try {
            return $do($prefix === self::SESSION_PREFIX ? RedisConnection::sessions() : RedisConnection::cache());
        } catch (\RedisException $error) {
            $sessions = $prefix === self::SESSION_PREFIX;
            RedisConnection::giveUp($sessions ? RedisConnection::SESSIONS : RedisConnection::CACHE, $error);
            return null;
        }
    }
}
