<?php

declare(strict_types=1);

namespace OmegaUp;

/** The grader, over HTTPS with our client certificate. The files are read at each call: a rotation needs no reload. */
final class Grader
{
    private const CONNECT_TIMEOUT_MS = 1500;
    private const TIMEOUT_MS = 10000;
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
     * @throws HttpException 502 or 503; or the grader's own 4xx, when it is the client's request that it refuses
     */
    private function call(string $endpoint, ?array $data = null, int $timeoutMs = self::TIMEOUT_MS): array
    {
        $curl = curl_init();
        curl_setopt_array($curl, [
            CURLOPT_URL => Config::string('OMEGAUP_GRADER_URL') . $endpoint,
            CURLOPT_SSLCERT => Config::ssl('frontend.crt'),
            CURLOPT_SSLKEY => Config::ssl('frontend.key'),
            CURLOPT_CAINFO => Config::ssl('ca.crt'),
            // Both are libcurl's defaults; said here so that nobody reads their absence as an omission.
            CURLOPT_SSL_VERIFYPEER => true,
            CURLOPT_SSL_VERIFYHOST => 2,
            CURLOPT_SSLVERSION => CURL_SSLVERSION_TLSv1_2,
            CURLOPT_PROTOCOLS => CURLPROTO_HTTPS,
            // An https_proxy in the environment is for the outside world, not for the host next door.
            CURLOPT_NOPROXY => '*',
            CURLOPT_NOSIGNAL => true,
            CURLOPT_CONNECTTIMEOUT_MS => min(self::CONNECT_TIMEOUT_MS, $timeoutMs),
            CURLOPT_TIMEOUT_MS => $timeoutMs,
            CURLOPT_RETURNTRANSFER => true,
        ]);
        if ($data !== null) {
            curl_setopt_array($curl, [
                CURLOPT_POST => true,
                CURLOPT_POSTFIELDS => json_encode($data, JSON_THROW_ON_ERROR),
                // "Expect:" off: waiting for 100 Continue would add a round trip (or a second) to each submission.
                CURLOPT_HTTPHEADER => ['Content-Type: application/json', 'Accept: application/json', 'Expect:'],
            ]);
        }
        $response = curl_exec($curl);
        if (!is_string($response)) {
            throw self::unreachable(curl_errno($curl), curl_error($curl));
        }
        return self::decode((int)curl_getinfo($curl, CURLINFO_RESPONSE_CODE), $response);
    }

    private static function unreachable(int $code, string $text): HttpException
    {
        $error = new \RuntimeException("curl $code: $text");
        Log::failure('grader', $error);
        return match ($code) {
            CURLE_COULDNT_RESOLVE_HOST => new HttpException(503, 'grader: name not resolved'),
            CURLE_COULDNT_CONNECT => new HttpException(503, 'grader: connection refused'),
            CURLE_OPERATION_TIMEDOUT => new HttpException(503, 'grader: timeout'),
            // 35 handshake, 58 our certificate, 60 (and 51) theirs, 77 the CA file: waiting does not mend these.
            35, 51, 58, 60, 77 => new HttpException(502, 'grader: TLS failure'),
            // With TLS 1.3 a refused client certificate shows up only here, as an alert or, when the peer's reset
            // overtakes it, as a connection that was lost.
            CURLE_RECV_ERROR, CURLE_SEND_ERROR, CURLE_GOT_NOTHING =>
                new HttpException(502, 'grader: ' . (Log::reason($error) === 'TLS failure' ? 'TLS failure' : 'connection lost')),
            default => new HttpException(502, 'grader: unavailable'),
        };
    }

    /** @return array<mixed> */
    private static function decode(int $status, string $response): array
    {
        $answer = json_decode($response, true);
        if ($status >= 200 && $status < 300) {
            return is_array($answer) ? $answer : throw new HttpException(502, 'grader: the answer is not JSON');
        }
        Log::failure('grader', new \RuntimeException("HTTP $status"));
        $reason = is_array($answer) && is_string($answer['error'] ?? null) ? $answer['error'] : "HTTP $status";
        throw match (true) {
            in_array($status, [400, 404, 409, 413, 422, 429], true) => new HttpException($status, $reason),
            $status === 503 => new HttpException(503, 'grader: not ready'),
            // 401 and 403 too: it is us that the grader does not want, not the client.
            default => new HttpException(502, "grader: HTTP $status"),
        };
    }
}
