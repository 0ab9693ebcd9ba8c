<?php

declare(strict_types=1);

namespace OmegaUp;

/** One HTTP request. What it holds is not validated, except where a method says so. */
final class Request
{
    /** What the backends take for the name of a problem, a contest, a language or a submission. */
    public const NAME = '/\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z/';

    /** @param array<mixed> $query */
    private function __construct(
        public readonly string $method,
        public readonly string $path,
        public readonly array $query,
        public readonly string $ip,
        public readonly bool $secure,
    ) {
    }

    public static function fromGlobals(): self
    {
        $uri = (string)($_SERVER['REQUEST_URI'] ?? '/');
        // REMOTE_ADDR, never a header: behind a proxy, nginx's real_ip module puts the right address there.
        $ip = filter_var($_SERVER['REMOTE_ADDR'] ?? '', FILTER_VALIDATE_IP);
        return new self(
            (string)($_SERVER['REQUEST_METHOD'] ?? 'GET'),
            explode('?', $uri, 2)[0],
            $_GET,
            is_string($ip) ? $ip : 'unknown',
            !in_array($_SERVER['HTTPS'] ?? '', ['', 'off'], true),
        );
    }

    /**
     * The body as an object of fields.
     *
     * @return array<mixed>
     * @throws HttpException 400, 413 or 415
     */
    public function input(int $maxBytes, bool $form): array
    {
        $type = strtolower(trim(explode(';', (string)($_SERVER['CONTENT_TYPE'] ?? ''), 2)[0]));
        if ($form && in_array($type, ['application/x-www-form-urlencoded', 'multipart/form-data'], true)) {
            return $_POST;
        }
        // JSON only, where a form is not wanted: other sites can send forms with a visitor's cookies, but not this type.
        if ($type !== 'application/json') {
            throw new HttpException(415, 'expected application/json' . ($form ? ' or a form' : ''));
        }
        $body = (string)file_get_contents('php://input', length: $maxBytes + 1);
        if (strlen($body) > $maxBytes) {
            throw new HttpException(413, "body: more than $maxBytes bytes");
        }
        $input = json_decode($body, true, 16);
        // An empty object and an empty list look alike here; either lacks the required fields.
        if (!is_array($input) || ($input !== [] && array_is_list($input))) {
            throw new HttpException(400, 'body: expected a JSON object');
        }
        return $input;
    }

    /** @throws HttpException 413 or 422 */
    public function text(int $maxBytes): string
    {
        $body = (string)file_get_contents('php://input', length: $maxBytes + 1);
        return match (true) {
            strlen($body) > $maxBytes => throw new HttpException(413, "body: more than $maxBytes bytes"),
            !mb_check_encoding($body, 'UTF-8') => throw new HttpException(422, 'body: expected text in UTF-8'),
            default => $body,
        };
    }

    public function cookie(string $name): string
    {
        $value = $_COOKIE[$name] ?? '';
        return is_string($value) ? $value : '';
    }

    /** @throws HttpException 422 */
    public function queryInt(string $name, int $default, int $minimum, int $maximum): int
    {
        $value = filter_var($this->query[$name] ?? $default, FILTER_VALIDATE_INT);
        return is_int($value) && $value >= $minimum && $value <= $maximum
            ? $value
            : throw new HttpException(422, "$name: expected an integer in $minimum..$maximum");
    }
}
