<?php

declare(strict_types=1);

namespace OmegaUp;

/** An answer other than success. The message goes to the client: never put a secret or a library's text into it. */
final class HttpException extends \RuntimeException
{
    /**
     * @param array<string, mixed> $body merged into the JSON answer
     * @param array<string, string> $headers
     */
    public function __construct(
        public readonly int $status,
        string $message,
        public readonly array $body = [],
        public readonly array $headers = [],
        ?\Throwable $previous = null,
    ) {
        parent::__construct($message, 0, $previous);
    }
}
