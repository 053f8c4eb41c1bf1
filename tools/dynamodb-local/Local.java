import com.amazonaws.services.dynamodbv2.local.main.ServerRunner;
import com.amazonaws.services.dynamodbv2.local.server.DynamoDBProxyServer;
import org.eclipse.jetty.server.Connector;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/** DynamoDB Local on a free port of 127.0.0.1, which it prints; until the end of standard input. */
class Local {
    public static void main(String[] arguments) throws Exception {
        String[] options = {"-inMemory", "-disableTelemetry", "-port", "8000"};
        DynamoDBProxyServer proxy = ServerRunner.createServerFromCommandLineArgs(options);
        // The runner itself would listen on every address.
        var field = DynamoDBProxyServer.class.getDeclaredField("server");
        field.setAccessible(true);
        ServerConnector listening = null;
        for (Connector connector : ((Server) field.get(proxy)).getConnectors()) {
            listening = (ServerConnector) connector;
            listening.setHost("127.0.0.1");
            listening.setPort(0);
        }
        proxy.start();
        System.out.println("port " + listening.getLocalPort());
        while (System.in.read() >= 0) { }
        Runtime.getRuntime().halt(0);
    }
}
