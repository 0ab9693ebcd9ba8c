<?php

declare(strict_types=1);

namespace OmegaUp;

/** Submissions on their way to the grader: by HTTPS, or, while it is away, by the queue that it consumes. */
final class Submissions
{
    public const EXCHANGE = 'submissions';
    public const ROUTING_KEY = 'SubmissionQueue';

    /**
     * Both ways may be taken by the same submission (an answer was lost): the grader knows it by its id.
     *
     * @param array<string, string> $submission as Grader::newSubmission()
     * @return array<string, mixed> the grader's answer; or status "queued", once the broker has it for good
     * @throws HttpException with the id, by which a client can ask what became of it, or send it again
     */
    public static function hand(array $submission): array
    {
        try {
            return ['status' => 'ok'] + (new Grader())->newSubmission($submission);
        } catch (HttpException $error) {
            if (in_array($error->status, [502, 503], true) && self::queued($submission)) {
                return ['status' => 'queued', 'id' => $submission['submission_id']];
            }
            $body = ['submission_id' => $submission['submission_id']];
            throw new HttpException($error->status, $error->getMessage(), $body, $error->headers, $error);
        }
    }

    /** @param array<string, string> $submission */
    private static function queued(array $submission): bool
    {
        try {
            RabbitMQConnection::publish(self::EXCHANGE, self::ROUTING_KEY, $submission);
        } catch (PublishException) {
            // The client is told of the grader, which is the way that it should have gone.
            return false;
        }
        return true;
    }
}
