<?php

declare(strict_types=1);

namespace OmegaUp;

use PhpAmqpLib\Channel\AMQPChannel;
use PhpAmqpLib\Connection\AMQPSSLConnection;
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;

/**
 * One connection per request, opened at its first use, shared by the whole request, closed at its end.
 *
 * It cannot outlive a request. PHP could keep the socket (STREAM_CLIENT_PERSISTENT), but an AMQP connection is more than
 * its socket: negotiated limits, open channels, the next delivery tag and half-read frames are PHP objects, which end with
 * the request, and between requests nobody would answer heartbeats. A reused socket would start a second handshake
 * in the middle of the first connection, which the broker answers with an error. Where the rate of publishing makes the
 * handshake (a few milliseconds) matter, an AMQP proxy on the host keeps connections; this class need not change for it.
 */
final class RabbitMQConnection
{
    private const LIBRARY = '/usr/share/php/PhpAmqpLib/autoload.php';

    private static ?self $instance = null;

    private function __construct(private readonly AMQPStreamConnection $connection)
    {
    }

    /** @throws \Exception */
    public static function getInstance(): self
    {
        if (self::$instance?->connection->isConnected() !== true) {
            self::$instance = new self(self::open());
        }
        return self::$instance;
    }

    /** @throws \Exception */
    public function channel(): AMQPChannel
    {
        return $this->connection->channel();
    }

    /**
     * Publish one persistent message and return once the broker has taken responsibility for it.
     *
     * @param array<string, mixed> $data
     * @throws PublishException
     */
    public static function publish(string $exchange, string $routingKey, array $data): void
    {
        $sent = false;
        try {
            $channel = self::getInstance()->channel();
            $refusal = null;
            $channel->set_nack_handler(static function () use (&$refusal): void {
                $refusal = 'refused by the broker';
            });
            // Mandatory: without it a message that no queue takes is confirmed and thrown away.
            $channel->set_return_listener(static function () use (&$refusal): void {
                $refusal = 'no queue takes the message';
            });
            $channel->confirm_select();
            $message = new AMQPMessage(
                json_encode($data, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES),
                [
                    'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
                    'content_type' => 'application/json',
                    'message_id' => bin2hex(random_bytes(16)),
                ],
            );
            $sent = true;
            $channel->basic_publish($message, $exchange, $routingKey, true);
            $channel->wait_for_pending_acks_returns(Config::seconds('OMEGAUP_RABBITMQ_TIMEOUT_MS'));
        } catch (\Exception $error) {
            Log::failure('rabbitmq', $error);
            // Do not wait for a broker that does not answer (an alarm blocks publishers) to say goodbye too.
            self::$instance?->connection->set_close_on_destruct(false);
            self::$instance = null;
            // A channel that the broker closes (no such exchange, no permission) has taken nothing.
            $closed = $error instanceof \PhpAmqpLib\Exception\AMQPProtocolChannelException;
            throw new PublishException(Log::reason($error), $sent && !$closed);
        }
        if ($refusal !== null) {
            throw new PublishException($refusal, false);
        }
    }

    private static function open(): AMQPStreamConnection
    {
        if (!is_file(self::LIBRARY)) {
            throw new \RuntimeException('php-amqplib is not installed');
        }
        require_once self::LIBRARY;
        $host = Config::string('OMEGAUP_RABBITMQ_HOST');
        $port = Config::int('OMEGAUP_RABBITMQ_PORT');
        $user = Config::string('OMEGAUP_RABBITMQ_USERNAME');
        $password = Config::string('OMEGAUP_RABBITMQ_PASSWORD');
        $vhost = Config::string('OMEGAUP_RABBITMQ_VHOST');
        $timeout = Config::seconds('OMEGAUP_RABBITMQ_TIMEOUT_MS');
        // No heartbeat: the connection lives for milliseconds, and each wait has its own timeout.
        if (Config::bool('OMEGAUP_RABBITMQ_TLS')) {
            return new AMQPSSLConnection($host, $port, $user, $password, $vhost, Config::streamTls($host), [
                'login_method' => 'PLAIN',
                'connection_timeout' => $timeout,
                'read_write_timeout' => $timeout,
                'channel_rpc_timeout' => $timeout,
            ]);
        }
        return new AMQPStreamConnection(
            $host,
            $port,
            $user,
            $password,
            $vhost,
            login_method: 'PLAIN',
            connection_timeout: $timeout,
            read_write_timeout: $timeout,
            channel_rpc_timeout: $timeout,
        );
    }
}
