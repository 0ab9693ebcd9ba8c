<?php

declare(strict_types=1);

namespace OmegaUp;

/** Sessions in their own Redis instance. Unlike the cache, these calls throw: "not known" is not "not logged in". */
final class Session
{
    public const COOKIE = 'ouat';
    private const WAIT_MILLISECONDS = 500;

    /**
     * @return string the token, which is all a client needs to be that identity
     * @throws \RedisException
     */
    public static function create(int $identityId, int $userId, string $ip): string
    {
        $token = bin2hex(random_bytes(32));
        $session = [
            'identity_id' => $identityId,
            'user_id' => $userId,
            'login_time' => time(),
            'ip_address' => $ip,
        ];
        $redis = RedisConnection::sessions();
        $stored = $redis->set(
            self::key($token),
            json_encode($session, JSON_THROW_ON_ERROR),
            ['ex' => Cache::TTL[Cache::SESSION_PREFIX]],
        );
        if ($stored !== true) {
            throw new \RedisException('the session was not stored');
        }
        // What only the primary has dies with it; nobody was told the token yet, so the login is simply tried again.
        $replicas = Config::int('REDIS_SESSIONS_REPLICAS');
        if ($replicas > 0 && $redis->wait($replicas, self::WAIT_MILLISECONDS) < $replicas) {
            throw new \RedisException('the session has no replica');
        }
        return $token;
    }

    /**
     * @return array{identity_id: int, user_id: int, login_time: int, ip_address: string}|null null: not logged in
     * @throws \RedisException
     */
    public static function get(string $token): ?array
    {
        if (!self::isToken($token)) {
            return null;
        }
        $stored = RedisConnection::sessions()->get(self::key($token));
        $session = is_string($stored) ? json_decode($stored, true) : null;
        return is_array($session) && is_int($session['identity_id'] ?? null) ? $session : null;
    }

    /** @throws \RedisException */
    public static function delete(string $token): void
    {
        if (self::isToken($token)) {
            RedisConnection::sessions()->unlink(self::key($token));
        }
    }

    private static function key(string $token): string
    {
        return Cache::SESSION_PREFIX . ":$token";
    }

    private static function isToken(string $token): bool
    {
        return preg_match('/\A[0-9a-f]{64}\z/', $token) === 1;
    }
}
