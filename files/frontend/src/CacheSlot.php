<?php

declare(strict_types=1);

namespace OmegaUp;

/**
 * One key of the cache, and who computes its value: one at a time, whatever the number of clients and web hosts.
 *
 * Who computes holds a lock beside the key ("#" occurs in no id) and may store only while it does. An invalidation takes
 * the lock away, so that what was computed from what is no longer true is not stored.
 */
final class CacheSlot
{
    /** Who computes for longer has lost its turn; nobody waits for longer either. */
    private const TURN_MILLISECONDS = 5000;
    private const PAUSE_MICROSECONDS = 20_000;

    private const FIND = <<<'LUA'
        local stored = redis.call('GET', KEYS[1])
        return stored and {stored, redis.call('TTL', KEYS[1])} or {}
        LUA;
    private const STORE = <<<'LUA'
        if redis.call('GET', KEYS[2]) ~= ARGV[1] then
            return 0
        end
        redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
        redis.call('UNLINK', KEYS[2])
        return 1
        LUA;
    private const RELEASE = <<<'LUA'
        return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('UNLINK', KEYS[1]) or 0
        LUA;

    private readonly string $token;
    private readonly string $lock;

    public function __construct(private readonly \Redis $redis, private readonly string $key)
    {
        $this->token = bin2hex(random_bytes(8));
        $this->lock = self::lockOf($key);
    }

    public static function lockOf(string $key): string
    {
        return "$key#lock";
    }

    /**
     * What is stored, as ['value' => ...]; null: it is for the caller to compute, and to store() or release().
     *
     * Waits for whoever computes it now. A value that is about to end is computed anew by one, while the others still get
     * the old one: a key that is always asked for is never cold.
     *
     * @return array{value: mixed}|null
     * @throws \RedisException
     */
    public function find(): ?array
    {
        $deadline = hrtime(true) + 1_000_000 * self::TURN_MILLISECONDS;
        $mine = false;
        while (true) {
            [$entry, $due] = $this->read();
            if ($entry !== null && !$due) {
                if ($mine) {
                    $this->release(); // somebody else has stored it between our look and our turn
                }
                return $entry;
            }
            if ($mine) {
                return null;
            }
            $mine = $this->take();
            if (!$mine) {
                if ($entry !== null) {
                    return $entry;
                }
                if (hrtime(true) >= $deadline) {
                    return null;
                }
                usleep(self::PAUSE_MICROSECONDS);
            }
        }
    }

    /** @throws \RedisException */
    public function store(mixed $value, float $costSeconds, int $ttl): void
    {
        $entry = json_encode(['value' => $value, 'cost' => round($costSeconds, 3)], JSON_THROW_ON_ERROR);
        $this->redis->eval(self::STORE, [$this->key, $this->lock, $this->token, $entry, $ttl], 2);
    }

    /** @throws \RedisException */
    public function release(): void
    {
        $this->redis->eval(self::RELEASE, [$this->lock, $this->token], 1);
    }

    private function take(): bool
    {
        $this->redis->clearLastError();
        if ($this->redis->set($this->lock, $this->token, ['nx', 'px' => self::TURN_MILLISECONDS]) === true) {
            return true;
        }
        // Refused, not taken: nobody is computing what we would wait for.
        $error = $this->redis->getLastError();
        return $error === null ? false : throw new \RedisException($error);
    }

    /** @return array{?array{value: mixed}, bool} the entry, and whether it ends before it could be computed twice */
    private function read(): array
    {
        $answer = $this->redis->eval(self::FIND, [$this->key], 1);
        if (!is_array($answer) || count($answer) !== 2) {
            return [null, false];
        }
        $entry = json_decode((string)$answer[0], true);
        // The wrapper tells a stored null from a value that is not ours or is cut short; those count as absent.
        if (!is_array($entry) || !array_key_exists('value', $entry)) {
            return [null, false];
        }
        $cost = is_numeric($entry['cost'] ?? null) ? (float)$entry['cost'] : 0.0;
        // -1: it never ends, somebody has put it there by hand.
        return [['value' => $entry['value']], $answer[1] >= 0 && $answer[1] <= ceil(2 * $cost)];
    }
}
