<?php

declare(strict_types=1);

namespace OmegaUp;

/** Asks everything the frontend depends on, each with a short timeout, and says which part does not answer. */
final class Health
{
    public const PARTS = ['mysql', 'redis_cache', 'redis_sessions', 'rabbitmq', 'grader'];

    /** @return array{status: string, unwell: list<string>, checks: array<string, array{ok: bool, ms: float, error: ?string}>} */
    public static function report(): array
    {
        $checks = [
            'mysql' => self::check('mysql', static fn () => MySQLConnection::getInstance()->select('SELECT 1')),
            'redis_cache' => self::check('redis_cache', static fn () => RedisConnection::cache()->ping()),
            'redis_sessions' => self::check('redis_sessions', static fn () => RedisConnection::sessions()->ping()),
            'rabbitmq' => self::check('rabbitmq', Certificates::checkExchange(...)),
            'grader' => self::check('grader', static fn () => (new Grader())->health()),
        ];
        $unwell = array_keys(array_filter($checks, static fn (array $check): bool => !$check['ok']));
        $needed = array_intersect($unwell, Config::list('OMEGAUP_HEALTH_REQUIRED'));
        $status = match (true) {
            $unwell === [] => 'ok',
            $needed === [] => 'degraded',
            default => 'error',
        };
        return ['status' => $status, 'unwell' => $unwell, 'checks' => $checks];
    }

    /**
     * @param callable(): mixed $ask
     * @return array{ok: bool, ms: float, error: ?string}
     */
    private static function check(string $part, callable $ask): array
    {
        $start = hrtime(true);
        $error = null;
        try {
            $ask();
        } catch (HttpException $failure) {
            $error = $failure->getMessage();
        } catch (\Exception $failure) {
            Log::failure("health $part", $failure);
            $error = Log::reason($failure);
        }
        return ['ok' => $error === null, 'ms' => round((hrtime(true) - $start) / 1e6, 1), 'error' => $error];
    }
}
