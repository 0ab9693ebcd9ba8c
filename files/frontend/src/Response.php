<?php

declare(strict_types=1);

namespace OmegaUp;

final class Response
{
    /**
     * @param array<string, mixed> $body
     * @param array<string, string> $headers
     */
    public static function json(int $status, array $body, array $headers = []): void
    {
        $flags = JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE | JSON_THROW_ON_ERROR;
        self::send($status, 'application/json', json_encode($body, $flags) . "\n", $headers);
    }

    public static function html(string $body): void
    {
        $policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
        self::send(200, 'text/html; charset=utf-8', $body, ['Content-Security-Policy' => $policy]);
    }

    public static function text(string $body): void
    {
        self::send(200, 'text/plain; version=0.0.4; charset=utf-8', $body, []);
    }

    public static function pdf(string $body, string $name): void
    {
        self::send(200, 'application/pdf', $body, ['Content-Disposition' => "inline; filename=\"$name\""]);
    }

    /** @param array<string, string> $headers */
    private static function send(int $status, string $type, string $body, array $headers): void
    {
        http_response_code($status);
        header_remove('X-Powered-By');
        $headers += [
            'Content-Type' => $type,
            'Cache-Control' => 'no-store',
            'X-Content-Type-Options' => 'nosniff',
        ];
        foreach ($headers as $name => $value) {
            header("$name: $value");
        }
        echo $body;
    }
}
