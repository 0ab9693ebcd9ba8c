<?php

declare(strict_types=1);

namespace OmegaUp;

/**
 * Get from the cache or compute, one at a time for each key (CacheSlot). Redis that is gone, slow or full makes this
 * slower, never wrong and never an error.
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

    /** Keys that one SCAN looks at: others wait for as long, about a tenth of a millisecond. */
    private const BATCH = 500;

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
        $slot = self::attempt($prefix, static fn (\Redis $redis): CacheSlot => new CacheSlot($redis, $key));
        $found = $slot === null ? null : self::attempt($prefix, static fn (): ?array => $slot->find());
        if ($found !== null) {
            return $found['value'];
        }
        $begun = hrtime(true);
        try {
            $value = $compute();
        } catch (\Throwable $error) {
            // Or all that wait would wait for nothing.
            self::attempt($prefix, static fn () => $slot?->release());
            throw $error;
        }
        $cost = (hrtime(true) - $begun) / 1e9;
        self::attempt($prefix, static fn () => $slot?->store($value, $cost, max(1, $ttl ?? self::TTL[$prefix])));
        return $value;
    }

    /** @return bool false when the instance could not be asked: the value then lives until its TTL ends */
    public static function deleteFromCache(string $prefix, string $id): bool
    {
        $key = self::key($prefix, $id);
        $keys = [$key, CacheSlot::lockOf($key)];
        return self::attempt($prefix, static fn (\Redis $redis): mixed => $redis->unlink($keys)) !== null;
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
            $redis->unlink([$base, CacheSlot::lockOf($base)]);
            // Twice: what was being computed when we came may be stored behind the first pass's back, while after that
            // pass has taken its lock it can no longer be stored.
            self::sweep($redis, $pattern);
            self::sweep($redis, $pattern);
            return true;
        }) === true;
    }

    private static function sweep(\Redis $redis, string $pattern): void
    {
        $cursor = null;
        // SCAN_RETRY makes phpredis go on over empty batches: false is the end.
        while (($keys = $redis->scan($cursor, $pattern, self::BATCH)) !== false) {
            if ($keys !== []) {
                $redis->unlink($keys);
            }
        }
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
