<?php

declare(strict_types=1);

namespace OmegaUp;

/** Where details go that a client must not see: PHP's error log (with FPM, the pool's). */
final class Log
{
    public static function failure(string $what, \Throwable $error): void
    {
        // Not the exception itself: a stack trace shows arguments. One line, whatever a peer put in its message.
        $text = sprintf('%s: %s: %s', $what, $error::class, $error->getMessage());
        error_log(substr((string)preg_replace('/[\x00-\x1f\x7f]+/', ' ', $text), 0, 500));
    }

    /** A failure in words from a closed list, so that an answer to a client cannot carry a host name or a password. */
    public static function reason(\Throwable $error): string
    {
        $text = $error->getMessage();
        return match (1) {
            preg_match("/NOT_FOUND|doesn't exist/", $text) => 'not declared',
            preg_match('/WRONGPASS|NOAUTH|NOPERM|ACCESS_REFUSED|access denied|login was refused/i', $text) => 'access refused',
            preg_match('/getaddrinfo|not known|could not resolve|resolution/i', $text) => 'name not resolved',
            preg_match('/timed? ?out/i', $text) => 'timeout',
            // What PHP's streams say when the handshake fails; "refused" here is no answer to a connection attempt.
            preg_match('#ssl://\S+ \(Unknown error|refused: ssl://#', $text) => 'TLS failure',
            preg_match('/refused/i', $text) => 'connection refused',
            preg_match('/certificate|SSL|TLS|crypto/', $text) => 'TLS failure',
            preg_match('/LOADING|MASTERDOWN|READONLY|NOREPLICAS|OOM/', $text) => 'not ready',
            default => 'unavailable',
        };
    }
}
