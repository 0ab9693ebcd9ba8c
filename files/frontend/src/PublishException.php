<?php

declare(strict_types=1);

namespace OmegaUp;

/** The broker did not confirm. The message is safe to show: it is from Log::reason() or as harmless. */
final class PublishException extends \RuntimeException
{
    /** @param bool $unknown the message was sent and may still arrive; false: certainly nothing was queued */
    public function __construct(string $reason, public readonly bool $unknown)
    {
        parent::__construct($reason);
    }
}
