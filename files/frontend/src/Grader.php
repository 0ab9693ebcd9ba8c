<?php

declare(strict_types=1);

namespace OmegaUp;

final class Grader
{
    private const HEALTH_TIMEOUT_MS = 2000;

    /**
     * @param array<string, string> $submission submission_id, problem, language, source; the grader takes the same id
     *     with the same contents for the same submission, so that trying again is safe when the answer was lost
     * @return array<mixed> the grader's answer
     * @throws HttpException
     */
    public function newSubmission(array $submission): array
    {
        return $this->call('/submission/new', $submission);
    }

    /**
     * @return array<mixed>
     * @throws HttpException
     */
    public function submissionStatus(string $id): array
    {
        return $this->call('/submission/status/' . rawurlencode($id));
    }

    /** @throws HttpException */
    public function health(): void
    {
        $this->call('/health', null, self::HEALTH_TIMEOUT_MS);
    }

    /**
     * @param array<string, mixed>|null $data null: a GET
     * @return array<mixed>
     * @throws HttpException
     */
    private function call(string $endpoint, ?array $data = null, ?int $timeoutMs = null): array
    {
        return (new Backend('grader', Config::string('OMEGAUP_GRADER_URL')))->json($endpoint, $data, $timeoutMs);
    }
}
